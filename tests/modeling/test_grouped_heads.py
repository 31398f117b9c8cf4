# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Grouped key/value heads, head sizes and cross-attention placements, which converted weights need."""

import pytest
import torch

from modeling_fblt.modeling_fblt import FBLTForCausalLM

from .tiny import random_rows, tiny_config, tiny_model

NETWORK = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
CROSS = {"cross_attn_num_heads": 4, "cross_attn_num_key_value_heads": 1}
GROUPED = {
    "patcher_config": NETWORK | {"num_key_value_heads": 2, "sliding_window": 8},
    "encoder_config": NETWORK | CROSS | {"num_key_value_heads": 1, "sliding_window": 9, "hash_vocab_size": 61},
    "global_config": NETWORK | {"num_key_value_heads": 2},
    "decoder_config": NETWORK | CROSS | {"num_key_value_heads": 2, "sliding_window": 10},
}


def ungrouped(model: FBLTForCausalLM) -> FBLTForCausalLM:
    """The same function with a key and a value head for each query head."""
    fields = model.config.to_dict()
    for name in GROUPED:
        for field in ("num_key_value_heads", "cross_attn_num_key_value_heads"):
            fields[name].pop(field, None)
    full = FBLTForCausalLM(type(model.config).from_dict(fields)).to(model.dtype).eval()
    weights = model.state_dict()
    for key, wanted in full.state_dict().items():
        if weights[key].shape != wanted.shape:
            heads = weights[key].unflatten(0, (-1, 8))  # 32 / 4
            weights[key] = heads.repeat_interleave(len(wanted) // len(weights[key]), 0).flatten(0, 1)
    full.load_state_dict(weights)
    return full


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_grouped_heads_equal_repeated_heads(attention):
    model = tiny_model(**GROUPED)
    full = ungrouped(model)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in full.parameters())
    for each in (model, full):
        each.set_attn_implementation(attention)
    ids = random_rows(2, 40)
    torch.testing.assert_close(model(ids, use_cache=False).logits, full(ids, use_cache=False).logits)
    losses = []
    for each in (model.train(), full.train()):
        torch.manual_seed(0)
        losses.append(each(ids, labels=ids).diffusion_loss)
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("decoder_input", ["embedding", "encoder"])
@pytest.mark.parametrize(
    "changes",
    [
        GROUPED,
        {"encoder_config": NETWORK | {"num_hidden_layers": 3, "cross_attn_all_layers": True, "hash_vocab_size": 61}},
        {"decoder_config": NETWORK | {"num_hidden_layers": 3, "cross_attn_all_layers": False}},
        {"global_config": NETWORK | {"head_dim": 10}, "patcher_config": NETWORK | {"head_dim": 6}},
    ],
    ids=["grouped", "all encoder layers", "first decoder layer", "head sizes"],
)
def test_steps_equal_one_pass_and_verified_text_the_plain_one(changes, decoder_input):
    decoder = changes.get("decoder_config", NETWORK) | {"input": decoder_input}
    model = tiny_model(**changes | {"decoder_config": decoder})
    ids = random_rows(2, 30)
    whole = model(ids, use_cache=False).logits
    cache, steps = None, []
    for piece in ids.split([7, 1, 1, 12, 9], dim=1):
        output = model(piece, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        steps.append(output.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole)
    texts = [
        model.generate(ids, decoding=decoding, max_new_tokens=15, do_sample=False).tolist()
        for decoding in ("ar", "blt-s", "blt-dv")
    ]
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize(
    ("network", "field", "value"),
    [
        ("global_config", "num_key_value_heads", 3),
        ("patcher_config", "head_dim", 5),
        ("encoder_config", "cross_attn_num_heads", 5),
        ("decoder_config", "cross_attn_num_key_value_heads", 3),
    ],
)
def test_impossible_heads_are_refused_by_name(network, field, value):
    with pytest.raises(ValueError, match=field):
        tiny_config(**{network: NETWORK | {field: value}})
