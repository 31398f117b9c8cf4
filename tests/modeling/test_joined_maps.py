# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Joined maps: the same function in fewer products, whatever happens to the maps afterwards."""

import copy
import pickle

import pytest
import torch
from torch import nn

from modeling_fblt import FBLTForCausalLM
from modeling_fblt.joined_maps_fblt import join_maps
from tests.modeling.tiny import random_rows, tiny_model

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def layers_of(model) -> list[nn.Module]:
    return [module for module in model.modules() if "matrices" in module.__dict__]


def is_joined(model) -> bool:
    """Whether every layer has its matrices."""
    return all(layer.matrices.of(layer) is not None for layer in layers_of(model))


@torch.no_grad()
def logits_of(model) -> torch.Tensor:
    return model(random_rows(2, 30), use_cache=True).logits


def with_gradient(model) -> torch.Tensor:
    """By each map for itself."""
    return model(random_rows(2, 30), use_cache=True).logits.detach()


@pytest.fixture
def model() -> FBLTForCausalLM:
    joined = tiny_model()
    join_maps(joined)
    assert is_joined(joined)
    return joined


def test_nothing_is_joined_before_a_model_decodes():
    model = tiny_model()
    logits_of(model)
    assert not is_joined(model)
    model.generate(random_rows(1, 8), max_new_tokens=2)
    assert is_joined(model)


def test_joined_maps_compute_the_same(model):
    torch.testing.assert_close(logits_of(model), with_gradient(model), **CLOSE)
    torch.testing.assert_close(logits_of(model), logits_of(tiny_model()), **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_less_precision_too(dtype):
    model = tiny_model(dtype=dtype)
    before = logits_of(model)
    join_maps(model)
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(logits_of(model), before, rtol=tolerance, atol=tolerance)


def test_names_values_and_memory_stay(model, tmp_path):
    before = tiny_model().state_dict()
    after = model.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    assert sum(storages.values()) == sum(p.nbytes for p in tiny_model().parameters())
    model.save_pretrained(tmp_path)
    loaded = FBLTForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in after.items())


def test_weights_written_in_place_are_the_matrix_s(model):
    before = logits_of(model)
    with torch.no_grad():
        for layer in layers_of(model):
            layer.attention.k_proj.weight.mul_(-1)
            layer.feed_forward.up_proj.weight.mul_(2)
    assert is_joined(model) and not torch.allclose(logits_of(model), before)
    torch.testing.assert_close(logits_of(model), with_gradient(model), **CLOSE)


def replace_weight(layer) -> None:
    layer.attention.v_proj.weight = nn.Parameter(layer.attention.v_proj.weight * 2)


def replace_data(layer) -> None:
    layer.feed_forward.down_proj.weight.data = layer.feed_forward.down_proj.weight * 2


class Wrapped(nn.Module):
    """As an adapter stands around a map."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.inner(x)


def wrap(layer) -> None:
    layer.attention.q_proj = Wrapped(layer.attention.q_proj)


def hook(layer) -> None:
    layer.attention.o_proj.register_forward_hook(lambda module, given, output: 2 * output)


def hook_the_attention(layer) -> None:
    layer.attention.register_forward_hook(lambda module, given, output: (2 * output[0], output[1]))


def patch(layer) -> None:
    forward = layer.feed_forward.gate_proj.forward
    layer.feed_forward.gate_proj.forward = lambda x: 2 * forward(x)


@pytest.mark.parametrize("change", [replace_weight, replace_data, wrap, hook, hook_the_attention, patch])
def test_changes_of_a_map_count(model, change):
    before = logits_of(model)
    for layer in layers_of(model):
        change(layer)
    assert not torch.allclose(logits_of(model), before)
    torch.testing.assert_close(logits_of(model), with_gradient(model), **CLOSE)
    join_maps(model)  # again, where that can be
    torch.testing.assert_close(logits_of(model), with_gradient(model), **CLOSE)


def test_moved_models_are_joined_anew(model):
    model.to(torch.float32)
    assert not is_joined(model)
    join_maps(model)
    assert is_joined(model)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_have_weights_of_their_own(model, how):
    other = how(model)
    assert torch.equal(logits_of(other), logits_of(tiny_model()))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    torch.testing.assert_close(logits_of(model), logits_of(tiny_model()), **CLOSE)


def test_a_model_that_decoded_can_be_trained():
    model = tiny_model()
    with torch.inference_mode():
        model.generate(random_rows(1, 8), max_new_tokens=2)
    rows = random_rows(2, 30)
    reference = tiny_model()
    for each in (model, reference):
        each.train()
        torch.manual_seed(0)
        each(rows, labels=rows).loss.backward()
    for (name, parameter), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None), name
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, other.grad, **CLOSE)
