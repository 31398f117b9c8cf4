# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What saving a model must leave as its user made it."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, Trainer, TrainingArguments

from modeling_fblt.modeling_fblt import FBLTForCausalLM
from modeling_fblt.tokenization_fblt import build_tokenizer
from tests.modeling.tiny import random_rows, tiny_config, tiny_model

BUNDLED = Path(__file__).parents[2] / "checkpoints" / "fblt-demo"


def test_saving_a_model_keeps_a_tokenizer_saved_before_it(tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<tool>"])
    tokenizer.model_max_length, tokenizer.padding_side = 2048, "right"
    tokenizer.save_pretrained(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    kept = AutoTokenizer.from_pretrained(tmp_path)
    assert kept.convert_tokens_to_ids("<tool>") == 261
    assert (kept.model_max_length, kept.padding_side) == (2048, "right")


def test_a_model_saved_again_brings_the_tokenizer_where_none_is(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    model.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("a")["input_ids"] == build_tokenizer()("a")["input_ids"]


@pytest.mark.parametrize("wanted", [True, False])
def test_a_trained_model_is_saved_with_the_use_cache_that_it_was_made_with(wanted, tmp_path):
    model = FBLTForCausalLM(tiny_config(use_cache=wanted))
    data = [{"input_ids": row, "labels": row} for row in random_rows(2, 12)]
    arguments = TrainingArguments(str(tmp_path / "run"), max_steps=1, report_to=[], use_cpu=True, save_strategy="no")
    trainer = Trainer(model, arguments, train_dataset=data)
    trainer.train()
    assert model.config.use_cache is False  # Trainer's doing, or the saved value would prove nothing
    trainer.save_model(str(tmp_path / "saved"))
    assert model.config.use_cache is False
    loaded = FBLTForCausalLM.from_pretrained(tmp_path / "saved").eval()
    assert loaded.config.use_cache is wanted
    assert (loaded(random_rows(1, 9)).past_key_values is not None) is wanted


@pytest.mark.checkpoint
def test_the_bundled_checkpoint_returns_caches():
    assert json.loads((BUNDLED / "config.json").read_text())["use_cache"] is True
