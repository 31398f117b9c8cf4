# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The releases of transformers call the KV cache by two names: FBLT takes and gives it by both, on each of them."""

import copy
import pickle

import pytest
import torch

from modeling_fblt import compatibility_fblt
from modeling_fblt.cache_fblt import FBLTCache
from modeling_fblt.compatibility_fblt import CACHE_NAME, OTHER_NAME, warn_if_untested
from tests.modeling.naive_decoding import ALL, NEVER, shared_model
from tests.modeling.tiny import random_rows

NAMES = ["past_key_values", "cache"]


@pytest.mark.parametrize("part", ["model", "base model"])
def test_an_output_has_its_cache_under_both_names(part):
    model = shared_model() if part == "model" else shared_model().model
    output = model(random_rows(2, 12), use_cache=True)
    assert isinstance(output.cache, FBLTCache)
    for name in NAMES:
        assert getattr(output, name) is output[name] is output.get(name) is output.cache and name in output
    # The field itself has the name that this release's own code looks for.
    assert CACHE_NAME in list(output.keys()) and OTHER_NAME not in list(output.keys())
    assert output.to_tuple()[1] is output.cache


def test_an_output_without_a_cache_says_so_under_both_names():
    for part in (shared_model(), shared_model().model):
        output = part(random_rows(2, 12), use_cache=False)
        for name in NAMES:
            assert getattr(output, name) is None and output.get(name) is None and name not in output
            with pytest.raises(KeyError):
                output[name]


def test_outputs_survive_copying_and_pickling():
    output = shared_model()(random_rows(1, 5), use_cache=False)
    for twin in (copy.copy(output), pickle.loads(pickle.dumps(output))):
        assert torch.equal(twin.logits, output.logits) and twin.cache is twin.past_key_values is None


@pytest.mark.parametrize("name", NAMES)
def test_forward_continues_from_a_cache_given_by_either_name(name):
    model, ids = shared_model(), random_rows(2, 24)
    whole = model(ids, use_cache=False)
    for part in (model, model.model):
        first = part(ids[:, :11], use_cache=True)
        second = part(ids[:, 11:], **{name: first.cache})
        assert second.cache is first.cache
        key = "logits" if part is model else "last_hidden_state"
        expected = whole.logits if part is model else model.model(ids, use_cache=False).last_hidden_state
        torch.testing.assert_close(second[key], expected[:, 11:], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("decoding", ["ar", "blt-s", "blt-d one step", "blt-dv one step", "beams"])
def test_generate_continues_from_a_cache_given_by_either_name(decoding, name):
    model, ids = shared_model(), random_rows(1, 15)
    settings = {"num_beams": 2} if decoding == "beams" else ALL[decoding]
    settings = {"eos_token_id": NEVER, "max_new_tokens": 7, "do_sample": False, **settings}
    # A beam search reorders its cache, so it can go on from one that was made for as many rows.
    rows = ids.repeat(2, 1) if decoding == "beams" else ids
    cache = model(rows[:, :-1], use_cache=True).cache
    assert torch.equal(model.generate(ids, **{name: cache}, **settings), model.generate(ids, **settings))


def test_two_caches_are_one_too_many():
    model, ids = shared_model(), random_rows(1, 9)
    one, other = (model(ids, use_cache=True).cache for _ in range(2))
    assert model(ids, past_key_values=one, cache=one).cache is one
    with pytest.raises(ValueError, match="`past_key_values` and `cache` are two names of one argument"):
        model(ids, past_key_values=one, cache=other)


@pytest.mark.parametrize("version", ["5.23.0", "5.23.4", "5.24.0", "5.24.0.dev0"])
def test_tested_releases_load_in_silence(version, warnings_of_fblt):
    warn_if_untested(version)
    assert not warnings_of_fblt


@pytest.mark.parametrize("version", ["5.22.1", "5.25.0", "6.0.0", "4.57.1"])
def test_another_release_is_named_beside_the_tested_ones_but_not_refused(version, warnings_of_fblt, monkeypatch):
    monkeypatch.setattr("transformers.__version__", version)
    copy.deepcopy(shared_model()).model.__class__(shared_model().config)
    (message,) = warnings_of_fblt
    assert version in message and "5.23" in message and "5.24" in message


@pytest.fixture
def warnings_of_fblt(monkeypatch) -> list[str]:
    messages: list[str] = []
    monkeypatch.setattr(compatibility_fblt.logger, "warning_once", messages.append)
    return messages


def test_a_cache_lets_generic_code_do_only_what_it_can():
    """It has no layers of transformers' kind, and `all` over none would promise everything."""
    cache = FBLTCache(shared_model().config, 1)
    assert not cache.is_compileable and not cache.is_croppable and not all(cache.is_linear)


def test_what_cannot_be_done_is_not_promised():
    """Context parallelism drops each layer's mask, which would silently train without windows and documents."""
    assert not shared_model().supports_context_parallel and not shared_model().model.supports_context_parallel
    # Accelerate must not move what a cache holds: the networks do it themselves.
    assert {"past_key_values", "cache"} <= set(shared_model()._skip_keys_device_placement)
