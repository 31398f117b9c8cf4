# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Feeding bytes bit by bit equals one full pass, whatever was drafted or taken back in between. In float64."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_fblt import cache_fblt
from modeling_fblt.cache_fblt import FBLTCache
from modeling_fblt.chunk_fblt import CHUNK_BYTES, cut
from modeling_fblt.configuration_fblt import MASK_ID
from modeling_fblt.forward_steps_fblt import Block, draft_block, draft_bytes, feed
from modeling_fblt.modeling_fblt import FBLTForCausalLM
from tests.modeling.tiny import BLOCK, packed_row, random_rows, tiny_model

CLOSE = {"atol": 1e-9, "rtol": 0}
LENGTH = 40
VARIANTS = {
    "plain": {},
    "encoder-input": {"decoder_input": "encoder"},
    "not-isolated": {"isolate_documents": False},
    "no-longest-patch": {"max_patch_length": None},
    "static": {"patching_mode": "static", "patch_size": 3},
    "space": {"patching_mode": "space", "decoder_input": "encoder"},
}


@functools.cache
def shared_model(variant: str) -> FBLTForCausalLM:
    return tiny_model(**VARIANTS[variant]).requires_grad_(False)


def texts() -> torch.Tensor:
    """Rows with documents that end in different places, in the last row twice in a row."""
    rows = torch.cat([random_rows(1, LENGTH, seed=1), packed_row(13, 27, seed=2), packed_row(5, 1, 20, 14, seed=3)])
    rows[:, ::6] = rows[:, ::6].clamp(max=4 + ord(" "))
    return rows


@functools.cache
def full_pass(variant: str) -> tuple[torch.Tensor, FBLTCache]:
    """Logits of whole rows, and the cache that one pass over them leaves."""
    cache = FBLTCache(shared_model(variant).config, 3)
    return shared_model(variant)(texts(), past_key_values=cache).logits, cache


def assert_holds(cache: FBLTCache, whole: FBLTCache) -> None:
    """`cache` knows of its bytes what `whole`, which goes on, knows of them."""
    for row, length in enumerate(cache.lengths.tolist()):
        for name in ("patch_index", "patch_start", "document_start"):
            have, wanted = getattr(cache, name).data[row], getattr(whole, name).data[row]
            assert torch.equal(have[: length + 1], wanted[: length + 1]), name
        patches = int(cache.patch_index.data[row, length])
        assert torch.equal(cache.document_patch.data[row, :patches], whole.document_patch.data[row, :patches])
        torch.testing.assert_close(cache.latents.data[row, :patches], whole.latents.data[row, :patches], **CLOSE)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(sizes=st.lists(st.integers(1, 25), min_size=1, max_size=20), variant=st.sampled_from(list(VARIANTS)))
def test_any_chunking_equals_one_pass(sizes, variant):
    model, (logits, whole) = shared_model(variant), full_pass(variant)
    cache, done = FBLTCache(model.config, 3), 0
    for size in [*sizes, LENGTH]:
        chunk = texts()[:, done : done + size]
        if chunk.shape[1] == 0:
            break
        output = model(chunk, past_key_values=cache)
        torch.testing.assert_close(output.logits, logits[:, done : done + size], **CLOSE)
        done += chunk.shape[1]
    assert cache.get_seq_length() == LENGTH and output.past_key_values is cache
    assert_holds(cache, whole)


def test_a_byte_at_a_time_equals_one_pass():
    model, (logits, whole) = shared_model("plain"), full_pass("plain")
    cache = FBLTCache(model.config, 3)
    steps = [model(texts()[:, i : i + 1], past_key_values=cache).logits for i in range(LENGTH)]
    torch.testing.assert_close(torch.cat(steps, dim=1), logits, **CLOSE)
    assert_holds(cache, whole)


# What happens between two feeds: bytes fed and taken back, or drafted.
DISTURBANCES = st.lists(st.tuples(st.sampled_from(["take back", "block", "bytes"]), st.integers(1, 12)), max_size=2)


def disturb(model: FBLTForCausalLM, cache: FBLTCache, kind: str, amount: int) -> None:
    batch, lengths = cache.lengths.shape[0], cache.lengths.clone()
    junk = random_rows(batch, amount + 1, seed=amount)[:, 1:]
    junk[:, amount // 2] = 2
    if kind == "take back":
        feed(model.model, junk, torch.tensor([amount, amount // 2, 0]), cache, close_patch=amount % 2 == 0)
        cache.truncate(torch.minimum(cache.lengths, lengths))
    elif kind == "block":
        anchor = (lengths - amount % 3).clamp(min=0)
        draft_block(model.model, Block(torch.full((batch, BLOCK), MASK_ID), anchor), cache)
    else:
        for offset in range(amount):
            draft_bytes(model.model, junk[:, offset : offset + 1], offset, cache)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    rounds=st.lists(
        st.tuples(st.lists(st.integers(0, 12), min_size=3, max_size=3), DISTURBANCES), min_size=1, max_size=6
    ),
    variant=st.sampled_from(list(VARIANTS)),
)
def test_rows_of_their_own_lengths_survive_drafts_and_rejections(rounds, variant):
    model, (logits, whole) = shared_model(variant), full_pass(variant)
    cache, ids = FBLTCache(model.config, 3), texts()
    for advance, disturbances in [([2, 1, 3], []), *rounds]:
        lengths = torch.minimum(torch.tensor(advance), LENGTH - cache.lengths)
        if not lengths.any():
            continue
        before = cache.lengths
        position = before[:, None] + torch.arange(int(lengths.max()))
        fed = feed(model.model, ids.gather(1, position.clamp(max=LENGTH - 1)), lengths, cache)
        for row, (start, length) in enumerate(zip(before.tolist(), lengths.tolist(), strict=True)):
            computed = model.byte_logits(fed.hidden[row, :length])
            torch.testing.assert_close(computed, logits[row, start : start + length], **CLOSE)
        assert_holds(cache, whole)
        for kind, amount in disturbances:
            disturb(model, cache, kind, amount)
        assert_holds(cache, whole)


@pytest.mark.parametrize("variant", ["plain", "encoder-input"])
def test_bytes_taken_back_deep_into_a_row_leave_no_trace(variant):
    model, (logits, whole) = shared_model(variant), full_pass(variant)
    cache = FBLTCache(model.config, 3)
    other = torch.cat([texts()[:, :9], random_rows(3, 31, seed=9)], dim=1)
    other[1, 20], other[2, 10] = 2, 2
    model(other, past_key_values=cache)
    cache.truncate(torch.tensor([9, 9, 9]))
    assert cache.get_seq_length() == 9
    torch.testing.assert_close(model(texts()[:, 9:], past_key_values=cache).logits, logits[:, 9:], **CLOSE)
    assert_holds(cache, whole)


@pytest.mark.parametrize("decoder_input", ["embedding", "encoder"])
def test_drafted_bytes_are_what_feeding_them_gives_as_long_as_no_patch_ends(decoder_input):
    model = tiny_model(max_patch_length=None, decoder_input=decoder_input).requires_grad_(False)
    model.config.patching_threshold = 1e9  # after the second byte of a document no patch ends before the document does
    ids = torch.cat([random_rows(1, LENGTH, seed=1), packed_row(7, LENGTH - 7, seed=2)])
    expected = model.model(ids, use_cache=False).last_hidden_state
    cache, lengths = FBLTCache(model.config, 2), torch.tensor([12, 20])
    feed(model.model, ids[:, :20], lengths, cache)
    for offset in range(LENGTH - 21):
        position = lengths + offset
        drafted = draft_bytes(model.model, ids.gather(1, position[:, None]), offset, cache)
        torch.testing.assert_close(drafted[:, 0], expected[torch.arange(2), position], **CLOSE)


def test_a_latent_that_nobody_reads_yet_may_be_anything():
    model, (logits, _) = shared_model("plain"), full_pass("plain")
    cache = FBLTCache(model.config, 3)
    model(texts()[:, :20], past_key_values=cache)
    for row, patches in enumerate(cache.patch_index.at(cache.lengths).tolist()):
        cache.latents.data[row, patches:] = 1e30
    cache.states.data[:, 20:] = 1e30
    torch.testing.assert_close(model(texts()[:, 20:], past_key_values=cache).logits, logits[:, 20:], **CLOSE)


def test_rows_can_be_chosen_repeated_and_reordered():
    model, (logits, _) = shared_model("plain"), full_pass("plain")
    cache, rows = FBLTCache(model.config, 3), torch.tensor([2, 0, 2, 1])
    model(texts()[:, :17], past_key_values=cache)
    cache.reorder_cache(rows)
    output = model(texts()[rows, 17:], past_key_values=cache)
    torch.testing.assert_close(output.logits, logits[rows, 17:], **CLOSE)


def test_a_padded_prompt_continues_with_the_mask_of_all_columns():
    model, (logits, _) = shared_model("plain"), full_pass("plain")
    mask = torch.ones(3, LENGTH + 4, dtype=torch.long)
    mask[:, :4] = 0
    padded = torch.nn.functional.pad(texts(), (4, 0))
    cache = FBLTCache(model.config, 3)
    first = model(padded[:, :21], attention_mask=mask[:, :21], past_key_values=cache)
    assert cache.get_seq_length() == 21 and cache.lengths.tolist() == [17] * 3
    second = model(padded[:, 21:], attention_mask=mask, past_key_values=cache)
    torch.testing.assert_close(torch.cat([first.logits[:, 4:], second.logits], dim=1), logits, **CLOSE)


def test_a_cache_is_made_when_wanted():
    model, ids = shared_model("plain"), random_rows(1, 5)
    assert isinstance(model(ids).past_key_values, FBLTCache)
    assert model(ids, use_cache=False).past_key_values is None
    assert isinstance(model(ids, use_cache=True).past_key_values, FBLTCache)


def test_repeated_and_selected_rows_go_on_as_the_rows_they_were_made_of():
    model, ids = tiny_model(), random_rows(2, 20)
    cache = FBLTCache(model.config, 2)
    model(ids[:, :11], past_key_values=cache)
    cache.batch_repeat_interleave(2)
    cache.batch_select_indices(torch.tensor([3, 0]))
    logits = model(ids[[1, 0], 11:], past_key_values=cache).logits
    full = model(ids[[1, 0]], use_cache=False).logits[:, 11:]
    torch.testing.assert_close(logits, full, rtol=0, atol=1e-10)


def test_generic_calls_that_make_no_sense_here_are_refused():
    cache = FBLTCache(tiny_model().config, 1)
    for call in (lambda: cache.crop(-1), cache.reset):
        with pytest.raises(NotImplementedError, match="FBLTCache"):
            call()


# --- sliding ---


@pytest.fixture
def short_memory(monkeypatch):
    """Byte buffers that slide every few bytes."""
    monkeypatch.setattr(cache_fblt, "RETAINED", 12)


def long_texts(length: int = 300) -> torch.Tensor:
    rows = torch.cat([random_rows(1, length, seed=31), packed_row(90, 7, length - 97, seed=32)])
    return rows


@pytest.mark.parametrize("variant", ["plain", "encoder-input", "not-isolated", "no-longest-patch"])
def test_long_rows_equal_one_pass_while_the_buffers_slide(variant, short_memory):
    model, ids = shared_model(variant), long_texts()
    expected = model(ids, use_cache=False).logits
    cache = FBLTCache(model.config, 2)
    held, steps = [], torch.tensor([[1, 5], [3, 0], [0, 2], [9, 4], [2, 7], [1, 1], [30, 12]])
    for round_ in range(60):
        lengths = torch.minimum(steps[round_ % len(steps)], 300 - cache.lengths)
        if not lengths.any():
            continue
        before = cache.lengths
        position = before[:, None] + torch.arange(int(lengths.max()))
        fed = feed(model.model, ids.gather(1, position.clamp(max=299)), lengths, cache)
        for row, (start, length) in enumerate(zip(before.tolist(), lengths.tolist(), strict=True)):
            found = model.byte_logits(fed.hidden[row, :length])
            torch.testing.assert_close(found, expected[row, start : start + length], **CLOSE)
        disturb_two(model, cache, round_)
        held.append(max(buffer.data.shape[buffer.dim] for buffer in cache._byte_buffers()))
    assert int(cache.lengths.min()) > 150 and int(cache.origin.first.min()) > 0, "nothing slid"
    assert max(held) <= 4 * (10 + 12 + 30) + 64


def disturb_two(model: FBLTForCausalLM, cache: FBLTCache, round_: int) -> None:
    """Feeds and takes back, or drafts, up to what a cache can always take back."""
    lengths, junk = cache.lengths.clone(), random_rows(2, 13, seed=round_)[:, 1:]
    if round_ % 3 == 0:
        feed(model.model, junk, torch.tensor([12, 5]), cache)
        cache.truncate(torch.minimum(cache.lengths, lengths))
    elif round_ % 3 == 1:
        draft_block(model.model, Block(torch.full((2, BLOCK), MASK_ID), lengths), cache)


def test_what_was_dropped_cannot_be_taken_back(short_memory):
    model = shared_model("plain")
    cache = FBLTCache(model.config, 2)
    for part in long_texts().split(20, dim=1):
        model(part, past_key_values=cache)
    cache.truncate(cache.lengths - 12)
    with pytest.raises(ValueError, match="`lengths`.*12 bytes"):
        cache.truncate(torch.tensor([40, 280]))


def test_a_long_prompt_is_fed_in_pieces():
    model, ids = shared_model("plain"), long_texts(CHUNK_BYTES + 130)
    lengths = torch.tensor([CHUNK_BYTES + 130, 77])
    mask = torch.arange(CHUNK_BYTES + 130) < lengths[:, None]
    whole = model(ids, attention_mask=mask, use_cache=False).logits
    cache = FBLTCache(model.config, 2)
    assert next(cut(ids, lengths))[0] == slice(0, CHUNK_BYTES)
    found = model(ids, attention_mask=mask, past_key_values=cache).logits
    torch.testing.assert_close(found, whole, **CLOSE)
    assert cache.lengths.tolist() == lengths.tolist()
    fed = feed(model.model, ids[:, :5], torch.tensor([5, 5]), cache, close_patch=True)
    assert (fed.completed >= 1).all()


def test_memory_grows_with_patches_not_with_bytes():
    """Per byte there is a constant, per patch a key and a value in each global layer, and a latent."""
    model = shared_model("plain")
    cache, ids = FBLTCache(model.config, 1), long_texts(2000)[:1]
    sizes = []
    for part in ids.split(500, dim=1):
        model(part, past_key_values=cache)
        byte_part = sum(b.data.nbytes for b in cache._byte_buffers())
        sizes.append((byte_part, cache.nbytes() - byte_part, cache.max_patches))
    assert sizes[-1][0] == sizes[-2][0]
    network = model.config.global_config
    per_patch = (2 * network.num_hidden_layers + 1) * network.hidden_size * 8 + 8
    for _, patch_part, patches in sizes:
        assert patches * per_patch <= patch_part <= 2.2 * (patches + 64) * per_patch
