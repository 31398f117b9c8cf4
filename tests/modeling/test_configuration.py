# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The configuration: the paper's defaults, errors that name the field, and nothing lost in JSON."""

import json

import pytest

from modeling_fblt.configuration_fblt import (
    FBLTConfig,
    FBLTDecoderConfig,
    FBLTEncoderConfig,
    FBLTGlobalConfig,
    FBLTPatcherConfig,
)
from tests.modeling.tiny import DECODER_WINDOW, tiny_config


def test_defaults_are_the_papers_plain_objective():
    config = FBLTConfig()
    assert (config.corruption, config.diffusion_loss_weight, config.distillation) == ("uniform", 1.0, 0.0)
    assert (config.block_fraction, config.random_anchor_fraction) == (1.0, 0.0)
    assert (config.vocab_size, config.mask_token_id, config.eos_token_id) == (261, 260, 2)


def test_sub_configs_may_be_dicts_or_objects():
    as_dict = tiny_config(decoder_config={"hidden_size": 64, "num_attention_heads": 4})
    as_object = tiny_config(decoder_config=FBLTDecoderConfig(hidden_size=64, num_attention_heads=4))
    assert as_dict.to_dict() == as_object.to_dict()
    assert isinstance(as_dict.decoder_config, FBLTDecoderConfig) and as_dict.decoder_config.hidden_size == 64


def test_json_keeps_every_field(tmp_path):
    config = tiny_config(
        decoder_input="encoder", patching_threshold=0.1234567890123, max_patch_length=None, corruption="draft"
    )
    config.save_pretrained(tmp_path)
    loaded = FBLTConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    classes = (FBLTPatcherConfig, FBLTEncoderConfig, FBLTGlobalConfig, FBLTDecoderConfig)
    parts = (loaded.patcher_config, loaded.encoder_config, loaded.global_config, loaded.decoder_config)
    assert all(type(part) is kind for part, kind in zip(parts, classes, strict=True))
    assert loaded.patching_threshold == 0.1234567890123 and loaded.max_patch_length is None


def test_derived_sizes_are_not_stored(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert "hidden_size" not in stored and stored["decoder_config"].get("cross_attn_num_heads") is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("patching_mode", "bpe"),
        ("corruption", "gaussian"),
        ("draft_fraction", 1.5),
        ("random_anchor_fraction", -0.1),
        ("distillation", 2.0),
        ("block_fraction", 0.0),
        ("cross_attn_k", 0),
        ("patch_size", 0),
        ("diffusion_t_min", 0.0),
        ("diffusion_t_min", 1.0),
        ("diffusion_loss_weight", -1.0),
        ("max_patch_length", 0),
        ("block_size", 1),
        ("block_size", DECODER_WINDOW + 1),
    ],
)
def test_a_field_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"`{field}`"):
        tiny_config(**{field: value})


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (FBLTPatcherConfig, "hidden_size", 0),
        (FBLTGlobalConfig, "num_hidden_layers", 0),
        (FBLTGlobalConfig, "hidden_size", 2048 + 16),
        (FBLTEncoderConfig, "sliding_window", 0),
        (FBLTEncoderConfig, "hash_ngram_sizes", [1, 3]),
        (FBLTEncoderConfig, "hash_functions", 12),
        (FBLTDecoderConfig, "input", "patches"),
    ],
)
def test_a_sub_config_field_out_of_range_is_named_with_its_network(kind, field, value):
    with pytest.raises(ValueError, match=f"`{kind.model_type}.{field}`"):
        kind(**{field: value})


def test_encoder_states_need_one_width():
    with pytest.raises(ValueError, match=r"`decoder_config\.input`"):
        tiny_config(decoder_config={"hidden_size": 64, "num_attention_heads": 4, "input": "encoder"})
