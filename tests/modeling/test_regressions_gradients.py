# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Gradients through a cached pass in eval mode, which is what `model(ids)` is. In float64."""

import pytest
import torch

from modeling_fblt.buffers_fblt import PositionBuffer
from modeling_fblt.chunk_fblt import CHUNK_BYTES
from tests.modeling.tiny import random_rows, tiny_config, tiny_model

LONG = 3 * CHUNK_BYTES + 464  # the last piece is written into buffers that the one before it has read


def gradients(model, run) -> dict[str, torch.Tensor]:
    model.zero_grad()
    torch.sin(run()).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("decoder_input", ["embedding", "encoder"])
def test_a_cached_pass_has_the_gradients_of_an_uncached_one(decoder_input):
    parts = tiny_config(decoder_input)
    wide = {n: {**getattr(parts, n).to_dict(), "sliding_window": 512} for n in ("encoder_config", "decoder_config")}
    model, ids = tiny_model(**wide), random_rows(2, LONG)
    mask = torch.ones_like(ids)
    mask[1, :40] = 0
    cached = gradients(model, lambda: model(ids, attention_mask=mask).logits[..., :260])
    plain = gradients(model, lambda: model(ids, attention_mask=mask, use_cache=False).logits[..., :260])
    assert cached.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(cached[name], gradient, atol=1e-7, rtol=1e-7, msg=name)


def test_gradients_reach_through_a_cache_that_is_gone_on_from():
    model, ids = tiny_model(), random_rows(1, 50)

    def in_two() -> torch.Tensor:
        first = model(ids[:, :30])
        return torch.cat([first.logits, model(ids[:, 30:], past_key_values=first.past_key_values).logits], 1)[..., :260]

    cached, plain = gradients(model, in_two), gradients(model, lambda: model(ids, use_cache=False).logits[..., :260])
    for name, gradient in plain.items():
        torch.testing.assert_close(cached[name], gradient, atol=1e-9, rtol=1e-9, msg=name)


def test_a_backward_pass_survives_generating_from_its_cache():
    model, ids = tiny_model(), random_rows(1, 50)
    output = model(ids)
    model.generate(torch.cat([ids, ids[:, -1:]], dim=1), past_key_values=output.past_key_values, max_new_tokens=5)
    output.logits[..., :260].sum().backward()
    assert model.model.decoder.layers[0].attention.k_proj.weight.grad.isfinite().all()


def test_decoding_writes_its_cache_in_place():
    buffer, column = PositionBuffer(), torch.tensor([[0, 1]])
    with torch.no_grad():
        buffer.write(torch.ones(1, 2, 3), column, 2)
        before = buffer.data
        buffer.write(torch.zeros(1, 2, 3), column + 2, 4)
    assert buffer.data is before
