# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The configuration: the paper's defaults, errors that name the field, and nothing lost in JSON."""

import dataclasses
import json

import pytest

from modeling_fblt.configuration_fblt import (
    FBLTConfig,
    FBLTDecoderConfig,
    FBLTEncoderConfig,
    FBLTGlobalConfig,
    FBLTPatcherConfig,
)
from modeling_fblt.modeling_fblt import FBLTForCausalLM
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


WRONG = {
    "whole": [None, "x", "8", True, 2.5, -1, 0, float("nan"), 10**12 + 10**30, [4], {}],
    "number": [None, "x", True, -1.5, float("nan"), float("inf"), [0.1]],
    "flag": [None, 1, "False", "x", 0.0],
    "choice": [None, "x", 70, 10, True, []],
    "list": ["x", [3, "4"], [3, None], [1, 3], [3] * 100, [10**9], 5, {3}, [2.5]],
}
FIELDS = {
    "whole": {
        "": ["cross_attn_k", "patch_size"],
        "patcher_config": [
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "intermediate_size",
            "sliding_window",
            "max_position_embeddings",
        ],
        "encoder_config": ["hash_vocab_size"],
        "draft_head_config": ["hidden_size"],
    },
    "number": {
        "": [
            "diffusion_loss_weight",
            "draft_fraction",
            "block_fraction",
            "random_anchor_fraction",
            "distillation",
            "diffusion_t_min",
            "draft_head_loss_weight",
        ],
        "global_config": ["rms_norm_eps", "residual_init_scale"],
        "draft_head_config": ["distillation", "loss_decay"],
    },
    "flag": {
        "": ["isolate_documents", "use_cache"],
        "decoder_config": ["cross_attn_all_layers", "tie_word_embeddings"],
    },
    "choice": {
        "": ["vocab_size", "mask_token_id", "patching_mode", "corruption", "tie_word_embeddings"],
        "decoder_config": ["input", "vocab_size"],
        "draft_head_config": ["vocab_size"],
    },
    "list": {"encoder_config": ["hash_ngram_sizes"]},
}


def changed(part: str, **fields: object) -> FBLTConfig:
    """A tiny config with fields of a part, or of the top level, changed."""
    if not part:
        return tiny_config(**fields)
    base = getattr(tiny_config(draft_head_config={"hidden_size": 8}), part).to_dict()
    return tiny_config(**{part: {**base, **fields}})


@pytest.mark.parametrize("kind", FIELDS)
def test_every_field_has_a_rule_that_names_it(kind):
    for part, names in FIELDS[kind].items():
        for name in names:
            for value in WRONG[kind]:
                with pytest.raises(ValueError, match=rf"`(\w+\.)?{name}` is "):
                    changed(part, **{name: value})


def test_a_field_that_is_added_needs_a_rule():
    networks = {"patcher_config", "encoder_config", "global_config", "decoder_config"}
    config = tiny_config(draft_head_config={"hidden_size": 8})
    parts = [getattr(config, name) for name in (*networks, "draft_head_config")]
    for found in (config, *parts):
        own = [kind for kind in type(found).__mro__ if kind.__module__ == FBLTConfig.__module__]
        declared = {field.name for field in dataclasses.fields(type(found))}
        written = {name for kind in own for name in kind.__annotations__ if name in declared}
        assert written - networks - {"draft_head_config", "rope_parameters"} == set(found.rules)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("patching_threshold", float("nan")),
        ("patching_threshold", "1.3"),
        ("max_patch_length", 2.5),
        ("block_size", 4.0),
        ("block_size", "8"),
        ("pad_token_id", 70),
        ("eos_token_id", [2, "x"]),
        ("eos_token_id", 2.0),
        ("hidden_size", 10),
        ("patcher_config", "x"),
        ("decoder_config", 7),
    ],
)
def test_a_value_of_another_kind_is_named(field, value):
    with pytest.raises((ValueError, TypeError), match=f"`{field}`"):
        tiny_config(**{field: value})


@pytest.mark.parametrize(
    ("entry", "rope"),
    [
        ("rope_parameters", "x"),
        ("rope_theta", {"rope_theta": 0}),
        ("rope_theta", {"rope_theta": "1e4"}),
        ("rope_type", {"rope_type": "su"}),
        ("partial_rotary_factor", {"partial_rotary_factor": 0.5}),
        ("partial_rotary_factor", {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}),
        ("factor", {"rope_type": "linear"}),
        ("factor", {"rope_type": "yarn"}),
        ("factor", {"rope_type": "yarn", "factor": float("nan")}),
        ("low_freq_factor", {"rope_type": "llama3", "factor": 2.0}),
        ("low_freq_factor", {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}),
        ("mrope_section", {"mrope_section": [1, 2]}),
    ],
)
def test_rotary_embeddings_that_would_be_ignored_or_fail_are_refused_by_name(entry, rope):
    rope = {"rope_theta": 1e4, "rope_type": "default", **rope} if isinstance(rope, dict) else rope
    with pytest.raises(ValueError, match=f"fblt_patcher.rope_parameters.*{entry}|`fblt_patcher.{entry}`"):
        FBLTPatcherConfig(rope_parameters=rope)
    if entry == "partial_rotary_factor":
        with pytest.raises(ValueError, match="partial_rotary_factor"):
            FBLTPatcherConfig(partial_rotary_factor=0.5)


def test_what_is_set_later_is_checked_when_the_model_is_made():
    config = tiny_config()
    with pytest.raises(ValueError, match=r"`fblt_decoder.*hidden_size"):
        config.hidden_size = 11
    for part, name, value in (("", "block_size", 1000), ("", "mask_token_id", 70), ("encoder_config", "head_dim", 3)):
        config = tiny_config()
        setattr(getattr(config, part) if part else config, name, value)
        with pytest.raises(ValueError, match=name):
            FBLTForCausalLM(config)


@pytest.mark.parametrize("value", [["x"], "float31", 3, "torch.float32"])
@pytest.mark.parametrize("part", [None, "encoder_config"])
def test_a_dtype_that_is_none_is_named(part, value):
    """It came as a bare error of transformers, which looks the name up."""
    given = {"dtype": value}
    with pytest.raises(ValueError, match="dtype` is "):
        FBLTConfig(**(given if part is None else {part: given}))


def test_encoder_states_need_one_width():
    with pytest.raises(ValueError, match=r"`decoder_config\.input`"):
        tiny_config(decoder_config={"hidden_size": 64, "num_attention_heads": 4, "input": "encoder"})
