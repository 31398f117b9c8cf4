# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Causal refinement: what passes change, what they cost, what they leave as it was. In float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_fblt import compaction_fblt, drafters_fblt
from modeling_fblt.cache_fblt import FBLTCache
from modeling_fblt.forward_steps_fblt import draft_bytes, feed
from modeling_fblt.refinement_fblt import refine
from tests.modeling.naive_decoding import ALL, NEVER, generated, left_padded, prompts, shared_model
from tests.modeling.tiny import random_rows, tiny_model
from tests.thorough import cases, few

NEW = 20
INPUTS = ["embedding", "encoder"]
REFINED = {
    "blt-s": {"decoding": "blt-s", "draft_length": 4},
    "blt-dv": {"decoding": "blt-dv"},
    "blt-dv at the patch": {"decoding": "blt-dv", "block_anchor": "patch"},
    "blt-dv two passes": {"decoding": "blt-dv", "paper_passes": True},
    "blt-d": {"decoding": "blt-d", "unmasking": "one_step"},
    "blt-d closed": {"decoding": "blt-d", "unmasking": "one_step", "close_patch": True},
}


def output_of(model, **settings_):
    arguments = {"max_new_tokens": NEW, "eos_token_id": NEVER, "return_dict_in_generate": True, **settings_}
    return model.generate(**left_padded(prompts()), **arguments)


def byte_by_byte(state, r: int) -> torch.Tensor:
    """The decoder's own greedy draft, `[batch, r]`, as `blt-s` makes it."""
    byte, drafted = state.carried(), []
    for offset in range(r):
        byte = state.lm.byte_logits(draft_bytes(state.lm.model, byte, offset, state.cache)).argmax(-1)
        drafted.append(byte)
    return torch.cat(drafted, dim=1)


def held(cache) -> list[torch.Tensor]:
    """Everything that the cache holds of the bytes fed, as copies."""
    columns = cache.columns_from(torch.zeros_like(cache.lengths), cache.max_length)
    inside = columns < (cache.lengths - cache.origin.first)[:, None]
    copies = [cache.lengths.clone()]
    for buffer in (buffer for buffer in cache._buffers() if buffer.data is not None):
        by_patch = buffer.origin is None
        data = buffer.data if buffer.dim == 1 else buffer.data.transpose(1, 2)
        copies.append(data.clone() if by_patch else data[:, : cache.max_length][inside].clone())
    return copies


def watched(monkeypatch, look) -> list:
    """Has `look(state, draft, refined, passes)` called at every refinement; what it returned."""
    seen = []

    def watching(state, draft, passes, *args, **kwargs):
        before = held(state.cache)
        refined = refine(state, draft, passes, *args, **kwargs)
        for now, then in zip(held(state.cache), before, strict=True):
            assert torch.equal(now, then), "a pass changed what the cache holds"
        seen.append(look(state, draft, refined, passes))
        return refined

    monkeypatch.setattr(drafters_fblt, "refine", watching)
    return seen


@pytest.mark.parametrize("decoder_input", few(INPUTS, ["embedding"]))
@pytest.mark.parametrize("name", REFINED)
@pytest.mark.parametrize("passes", few([1, 2, 3], (1, 3)))
def test_after_k_passes_the_first_k_bytes_are_the_decoders_own(monkeypatch, name, decoder_input, passes):
    def look(state, draft, refined, k):
        rows = state.active & (state.pending == 0) & (state.cache.lengths > 0)
        r = refined.ids.shape[1]
        own, leading = byte_by_byte(state, r), torch.arange(r) < refined.lengths.clamp(max=k)[:, None]
        assert torch.equal(refined.ids[rows][leading[rows]], own[rows][leading[rows]])
        return int((draft.ids != own)[rows][leading[rows]].sum())

    seen = watched(monkeypatch, look)
    output_of(shared_model(decoder_input), **REFINED[name], refine_steps=passes)
    assert sum(seen) > 0, "no byte was other than the decoder's own before"


@pytest.mark.parametrize("decoder_input", INPUTS)
@pytest.mark.parametrize("name", ["blt-s", "blt-dv"])
def test_as_many_passes_as_bytes_give_the_decoders_own_draft(name, decoder_input):
    model = shared_model(decoder_input)
    drafts = {"blt-s": 4, "blt-dv": model.config.block_size - 1}
    own = output_of(model, decoding="blt-s", draft_length=drafts[name])
    # A block drafts one byte more where the first round leaves room; its last byte is not looked at.
    refined = output_of(model, **{**REFINED[name], "refine_steps": 16, "draft_length": 4})
    assert torch.equal(own.sequences, refined.sequences)
    assert torch.equal(own.accepted, refined.accepted) and torch.equal(own.iterations, refined.iterations)


def test_many_bytes_in_a_call_are_what_one_after_the_other_are():
    for decoder_input in INPUTS:
        model = shared_model(decoder_input)
        ids, lengths = random_rows(3, 30, seed=8), torch.tensor([5, 17, 20])
        caches = []
        for sizes in ([1] * 9, [9], [4, 5]):
            cache, states, done = filled_cache(model, ids, lengths), [], 0
            for size in sizes:
                position = lengths[:, None] + torch.arange(done, done + size)
                states.append(draft_bytes(model.model, ids.gather(1, position), done, cache))
                done += size
            caches.append((cache, torch.cat(states, dim=1)))
        for _, states in caches[1:]:
            torch.testing.assert_close(states, caches[0][1], atol=1e-10, rtol=0)
        # What is fed next knows nothing of it.
        fresh = filled_cache(model, ids, lengths)
        following = random_rows(3, 8, seed=9)
        expected = feed(model.model, following, torch.full((3,), 8), fresh).hidden
        for cache, _ in caches:
            hidden = feed(model.model, following, torch.full((3,), 8), cache).hidden
            torch.testing.assert_close(hidden, expected, atol=1e-10, rtol=0)


def filled_cache(model, ids: torch.Tensor, lengths: torch.Tensor) -> FBLTCache:
    """A cache that holds `lengths` `[batch]` bytes of each row."""
    cache = FBLTCache(model.config, len(ids))
    feed(model.model, ids[:, : int(lengths.max())], lengths, cache)
    return cache


@pytest.mark.parametrize("decoder_input", INPUTS)
@pytest.mark.parametrize("name", ["blt-s", "blt-dv"])
def test_passes_are_counted(monkeypatch, name, decoder_input):
    """A call of the decoder for each pass, of the encoder too where it feeds the decoder; none that changes nothing."""
    model, active = shared_model(decoder_input), []
    monkeypatch.setattr(compaction_fblt, "should_leave", lambda ended, present: False)  # rows keep their places

    def look(state, draft, refined, passes):
        active.append(state.active.long())
        return (refined.lengths > 0).long() * state.active

    calls = watched(monkeypatch, look)
    output = output_of(model, **REFINED[name], refine_steps=1)
    # Rows that have room for one byte only are filled in with the others.
    passes, blocks = sum(calls), sum(active) if name == "blt-dv" else 0
    assert torch.equal(output.decoder_nfe, output.iterations + passes + blocks)
    assert torch.equal(output.encoder_nfe, output.iterations + (passes if decoder_input == "encoder" else 0))
    calls.clear()
    most = output_of(model, **REFINED[name], refine_steps=16)
    # A pass fixes a byte at least, and the last one finds nothing to change.
    longest = 4 if name == "blt-s" else model.config.block_size
    spent = most.decoder_nfe - most.iterations
    assert (spent <= sum(calls) * (longest + 1 + (name == "blt-dv"))).all() and (spent > sum(calls)).all()


def test_passes_make_drafts_better():
    accepted = []
    for passes in range(4):
        output = output_of(shared_model("encoder"), decoding="blt-dv", refine_steps=passes)
        accepted.append(int(output.accepted.sum()) / int(output.iterations.sum()))
    assert accepted[0] < accepted[1] < accepted[3]


def test_an_unverified_text_is_refined_too():
    """Each block of `blt-d` is the decoder's own text, given enough passes."""
    plain, refined = (
        output_of(shared_model(), decoding="blt-d", unmasking="one_step", refine_steps=n, max_new_tokens=5)
        for n in (0, 16)
    )
    assert not torch.equal(plain.sequences, refined.sequences)
    assert (refined.decoder_nfe > plain.decoder_nfe).any() and torch.equal(refined.global_nfe, plain.global_nfe)


def test_sampled_passes_of_an_unverified_text_settle():
    """All passes draw with the same random numbers: each fixes a byte at least, and then nothing changes any more."""
    torch.manual_seed(3)
    sampled = {"do_sample": True, "top_k": 0, "unmasking": "one_step"}
    output = output_of(shared_model(), decoding="blt-d", refine_steps=16, **sampled)
    # A round fills in a block, and has at most one pass for each of its bytes and one that finds nothing to change.
    block = shared_model().config.block_size
    assert (output.decoder_nfe <= output.iterations * (1 + block + 1)).all()
    assert (output.decoder_nfe > 2 * output.iterations).all()


def test_more_passes_keep_more_when_sampling():
    """Passes and verification draw with the same random numbers, so passes lead to what is kept."""
    kept = []
    for passes in (0, 1, 3):
        torch.manual_seed(1)
        output = output_of(
            shared_model("encoder"), decoding="blt-dv", refine_steps=passes, do_sample=True, num_return_sequences=8
        )
        kept.append(int(output.accepted.sum()) / int(output.iterations.sum()))
    assert kept[0] < kept[1] < kept[2]


@pytest.mark.parametrize("name", ["blt-dv", "blt-s"])
def test_a_plain_blt_and_its_blocks_take_the_same_setting(name):
    model = tiny_model(seed=3, block_size=None if name == "blt-s" else 5)
    assert model.generation_config.refine_steps == 0
    model.generation_config.refine_steps = 2
    inputs = left_padded(prompts())
    assert generated(model, inputs, 12, decoding=name) == generated(model, inputs, 12, decoding="ar")


@settings(max_examples=cases(25, 600), deadline=None, derandomize=True)
@given(
    texts=st.lists(st.lists(st.integers(2, 259), max_size=20), min_size=1, max_size=3),
    repeats=st.integers(1, 3),
    new=st.integers(1, 16),
    name=st.sampled_from(["ar", "blt-s", "blt-dv", "blt-dv at the patch", "blt-dv two passes"]),
    passes=st.sampled_from([0, 1, 2, 3, "auto"]),
    lookup=st.sampled_from([None, 1, 4, 9]),
    ngram=st.integers(1, 5),
    length=st.sampled_from([3, 9, "auto"]),
    confidence=st.sampled_from([None, 0.0095]),
    valid_utf8=st.booleans(),
    stop=st.sampled_from([NEVER, 2, 60, 200]),
    decoder_input=st.sampled_from(INPUTS),
)
def test_passes_and_lookup_never_change_what_is_written(
    texts, repeats, new, name, passes, lookup, ngram, length, confidence, valid_utf8, stop, decoder_input
):
    model = shared_model(decoder_input)
    inputs = left_padded([torch.tensor([1, *(text * repeats)]) for text in texts])
    common = {"valid_utf8": valid_utf8}
    if stop not in (NEVER, 2):
        common["sequence_bias"] = [[[stop], 3.0]]
    plain = generated(model, inputs, new, stop, decoding="ar", **common)
    settings_ = {**ALL["ar"], **REFINED.get(name, {}), "prompt_lookup_num_tokens": lookup}
    if name != "ar":
        settings_ |= {"refine_steps": passes, "draft_confidence": confidence}
    if name == "blt-s":
        settings_["draft_length"] = length
    settings_ |= {"max_matching_ngram_size": ngram, "draft_cost": 0.1}
    assert generated(model, inputs, new, stop, **settings_, **common) == plain
