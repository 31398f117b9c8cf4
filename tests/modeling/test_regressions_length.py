# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""How much `generate` writes where no length is given, and whose length counts where one is. No call may warn."""

import json
import logging
import warnings
from pathlib import Path

import pytest
from transformers import GenerationConfig
from transformers.utils import logging as transformers_logging

from modeling_fblt.generation_config_fblt import NEW_BYTES
from modeling_fblt.modeling_fblt import FBLTForCausalLM
from tests.modeling.naive_decoding import NEVER
from tests.modeling.tiny import random_rows, tiny_model

BUNDLED = Path(__file__).parents[2] / "checkpoints" / "fblt-demo"
PROMPT = 10


@pytest.fixture
def model():
    model = tiny_model(seed=3)
    model.generation_config.eos_token_id = NEVER
    return model


def columns(model, caplog, **arguments) -> int:
    """Columns that a call writes, prompt included; warnings fail."""
    transformers_logging.enable_propagation()
    try:
        with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
            warnings.simplefilter("error")
            ids = random_rows(1, PROMPT)
            written = model.generate(ids, attention_mask=ids.new_ones(ids.shape), **arguments)
    finally:
        transformers_logging.disable_propagation()
    assert [record.message for record in caplog.records] == []
    return written.shape[1]


def test_without_a_length_a_paragraph_is_written(model, caplog):
    assert columns(model, caplog) == PROMPT + NEW_BYTES


@pytest.mark.parametrize("mode", [{}, {"decoding": "ar"}, {"num_beams": 2}, {"use_cache": False}])
def test_a_length_of_the_callers_own_counts(model, caplog, mode):
    assert columns(model, caplog, max_length=14, **mode) == 14
    assert columns(model, caplog, max_new_tokens=5, **mode) == PROMPT + 5


def test_a_length_in_a_config_of_the_callers_own_counts(model, caplog):
    assert columns(model, caplog, generation_config=GenerationConfig(max_length=14, decoding="ar")) == 14
    assert columns(model, caplog, generation_config=GenerationConfig(max_new_tokens=5, decoding="ar")) == PROMPT + 5
    model.generation_config.max_length = 13
    assert columns(model, caplog) == 13


def test_the_default_is_saved(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert FBLTForCausalLM.from_pretrained(tmp_path).generation_config.max_new_tokens == NEW_BYTES


@pytest.mark.checkpoint
def test_the_bundled_checkpoint_has_the_default():
    assert json.loads((BUNDLED / "generation_config.json").read_text())["max_new_tokens"] == NEW_BYTES
