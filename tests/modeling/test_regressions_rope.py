# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Scaled rotary embeddings: every network takes those whose frequencies are fixed, and decoding stays exact."""

import pytest
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from modeling_fblt.configuration_fblt import FBLTConfig, FBLTGlobalConfig
from modeling_fblt.modeling_fblt import FBLTForCausalLM
from tests.modeling.naive_decoding import NEVER, VERIFIED, generated, naive_greedy
from tests.modeling.tiny import random_rows, tiny_config, tiny_model

NETWORKS = ("patcher_config", "encoder_config", "global_config", "decoder_config")
SCALED = {
    "linear": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "factor": 4.0, "original_max_position_embeddings": 16, "low_freq_factor": 1.0, "high_freq_factor": 4.0
    },
    "proportional": {"partial_rotary_factor": 0.5},
}  # fmt: skip


def scaled(kind: str) -> dict:
    """Changes of a tiny config that scale every network."""
    rope = {"rope_type": kind, "rope_theta": 100.0, **SCALED[kind]}
    parts = tiny_config()
    return {n: {**getattr(parts, n).to_dict(), "rope_parameters": dict(rope), "head_dim": None} for n in NETWORKS}


@pytest.mark.parametrize("kind", SCALED)
def test_every_network_takes_scaled_rotary_embeddings(kind, tmp_path):
    model = tiny_model(seed=3, dtype=torch.float32, **scaled(kind))
    networks = (model.model.patcher, model.model.encoder, model.model.global_transformer, model.model.decoder)
    for network in networks:
        frequencies, attention_scaling = ROPE_INIT_FUNCTIONS[kind](network.config)
        assert torch.equal(network.rotary_emb.inv_freq, frequencies)
        assert network.rotary_emb.attention_scaling == attention_scaling
        plain = network.rotary_emb.compute_default_rope_parameters(network.config)[0]
        assert not torch.equal(network.rotary_emb.inv_freq, plain)
    ids = random_rows(2, 40)
    model.save_pretrained(tmp_path)
    loaded = FBLTForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize("kind", SCALED)
def test_decoding_is_exact_beyond_the_length_that_a_scaling_refers_to(kind):
    model, prompt = tiny_model(seed=3, **scaled(kind)), random_rows(1, 25)[0]
    truth = naive_greedy(model, prompt, 30)
    for name in ("blt-s", "blt-dv one step"):
        assert generated(model, {"input_ids": prompt[None]}, 30, NEVER, **VERIFIED[name]) == [truth]


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
        {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 16,
         "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
    ],
)  # fmt: skip
@pytest.mark.parametrize("network", NETWORKS)
def test_frequencies_that_change_with_the_length_are_refused_by_name(network, rope):
    part = {**getattr(tiny_config(), network).to_dict(), "rope_parameters": dict(rope)}
    with pytest.raises(ValueError, match=f"{part['model_type']}.*{rope['rope_type']}.*'yarn'"):
        tiny_config(**{network: part})


def test_frequencies_set_on_a_config_later_are_refused_when_the_model_is_built():
    config = tiny_config()
    config.global_config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(ValueError, match="fblt_global.*dynamic"):
        FBLTForCausalLM(config)


def test_the_head_size_is_filled_in_as_in_other_models(tmp_path):
    assert FBLTGlobalConfig(hidden_size=64, num_attention_heads=4).head_dim == 16
    config = tiny_config()
    assert [getattr(config, name).head_dim for name in NETWORKS] == [16, 16, 24, 16]
    config.save_pretrained(tmp_path)
    assert FBLTConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
