# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Blocks: what one may see, that drafting sees the same, where they stand and how they are corrupted. In float64."""

import dataclasses

import pytest
import torch

from modeling_fblt.block_loss_fblt import Blocks, block_loss, build_blocks, draw_masks
from modeling_fblt.cache_fblt import FBLTCache
from modeling_fblt.configuration_fblt import CORRUPTIONS, MASK_ID
from modeling_fblt.forward_steps_fblt import Block, draft_block, feed
from tests.modeling.tiny import BLOCK, packed_row, random_rows, tiny_model

CLOSE = {"atol": 1e-9, "rtol": 0}
VARIANTS = [
    {},
    {"decoder_input": "encoder"},
    {"isolate_documents": False, "max_patch_length": None},
    {"random_anchor_fraction": 0.7},
]


@pytest.fixture(params=VARIANTS, ids=lambda variant: "-".join(map(str, variant)) or "plain")
def model(request):
    return tiny_model(**request.param).requires_grad_(False)


def packed_rows() -> torch.Tensor:
    """Two rows that are longer than two windows, one of them of several documents."""
    return torch.cat([random_rows(1, 44, seed=1), packed_row(17, 2, 25, seed=2)])


def segmented(model, ids: torch.Tensor, lengths: torch.Tensor | None = None):
    lengths = torch.full((ids.shape[0],), ids.shape[1]) if lengths is None else lengths
    chunk = model.model.begin_chunk(ids, lengths, None)
    model.model.segment(chunk)
    return chunk


def blocks_of(model, ids: torch.Tensor, lengths: torch.Tensor | None = None, seed: int = 0) -> Blocks:
    torch.manual_seed(seed)
    chunk = segmented(model, ids, lengths)
    targets = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    return build_blocks(ids, targets, chunk.starts[:, :-1], chunk.document_start[:, :-1], chunk.lengths, model.config)


def states_of(model, ids: torch.Tensor, blocks: Blocks) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoder states of clean bytes and of blocks in the training layout, of known bytes of blocks too."""
    blocks = dataclasses.replace(blocks, masked=blocks.present)
    chunk = segmented(model, ids)
    states = model.model.encode(chunk)
    clean, drafted = model.model.decode_with_blocks(chunk, states, model.model.compress(chunk, states), blocks)
    whole = drafted.new_zeros(*blocks.present.shape, drafted.shape[-1])
    return clean, whole.index_put((blocks.present,), drafted)


def every_block(blocks: Blocks):
    """`(row, block, anchor, bytes present)` of the blocks that are not padding."""
    for row, anchors in enumerate(blocks.anchors.tolist()):
        for block, anchor in enumerate(anchors):
            if (size := int(blocks.present[row, block].sum())) > 0:
                yield row, block, anchor, size


# --- property 6 ---


def test_clean_bytes_do_not_see_blocks(model):
    ids = packed_rows()
    clean, _ = states_of(model, ids, blocks_of(model, ids))
    with_none = model.model(ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(clean, with_none, **CLOSE)


def test_a_block_does_not_see_other_blocks_and_absent_bytes(model):
    ids = packed_rows()
    blocks = blocks_of(model, ids)
    _, before = states_of(model, ids, blocks)
    for row, block, _, size in every_block(blocks):
        noise = torch.randint(4, 260, blocks.input_ids.shape)
        noise[row, block, :size] = blocks.input_ids[row, block, :size]
        _, after = states_of(model, ids, dataclasses.replace(blocks, input_ids=noise))
        torch.testing.assert_close(after[row, block, :size], before[row, block, :size], **CLOSE)


def test_a_block_sees_its_own_bytes_both_ways(model):
    ids = packed_rows()
    blocks = blocks_of(model, ids)
    _, before = states_of(model, ids, blocks)
    changed = blocks.input_ids.clone()
    changed[0, 2, 2] = 5 if changed[0, 2, 2] != 5 else 6
    _, after = states_of(model, ids, dataclasses.replace(blocks, input_ids=changed))
    assert (after[0, 2] != before[0, 2]).any(-1).all()


def test_a_block_does_not_see_clean_bytes_from_its_anchor_on(model):
    ids = packed_rows()
    blocks = blocks_of(model, ids)
    _, before = states_of(model, ids, blocks)
    for row, block, anchor, size in every_block(blocks):
        changed = ids.clone()
        changed[row, anchor:] = torch.randint(4, 260, changed[row, anchor:].shape)
        _, after = states_of(model, changed, blocks)
        torch.testing.assert_close(after[row, block, :size], before[row, block, :size], **CLOSE)
        if model.config.isolate_documents:
            start = int(segmented(model, ids).document_start[row, anchor])
            changed = ids.clone()
            changed[row, : max(start - 1, 0)] = torch.randint(4, 260, changed[row, : max(start - 1, 0)].shape)
            _, after = states_of(model, changed, blocks)
            torch.testing.assert_close(after[row, block, :size], before[row, block, :size], **CLOSE)


# --- property 7 ---


def test_the_training_layout_equals_cached_drafting(model):
    ids = packed_rows()
    blocks = blocks_of(model, ids)
    _, drafted = states_of(model, ids, blocks)
    compared = 0
    for row, block, anchor, size in every_block(blocks):
        cache = FBLTCache(model.config, 1)
        feed(model.model, ids[row : row + 1, :anchor], torch.tensor([anchor]), cache)
        alone = Block(blocks.input_ids[row : row + 1, block, :size], torch.tensor([anchor]))
        cached = draft_block(model.model, alone, cache)
        torch.testing.assert_close(cached[0], drafted[row, block, :size], **CLOSE)
        compared += size
    assert compared > 60


def test_a_block_drafted_while_its_prefix_is_fed_is_the_same(model):
    ids = packed_rows()
    blocks = blocks_of(model, ids)
    _, drafted = states_of(model, ids, blocks)
    for block in range(1, blocks.anchors.shape[1]):
        if not blocks.present[:, block].all():
            continue
        # Both rows at once, each fed up to some byte before its anchor and then from there with the block.
        anchors, cache = blocks.anchors[:, block], FBLTCache(model.config, 2)
        half = anchors // torch.tensor([2, 3])
        feed(model.model, ids, half, cache)
        rest = half[:, None] + torch.arange(int((anchors - half).max()))
        both = Block(blocks.input_ids[:, block], anchors)
        fed = feed(model.model, ids.gather(1, rest), anchors - half, cache, place_block=lambda *_, both=both: both)
        torch.testing.assert_close(fed.block_hidden, drafted[:, block], **CLOSE)
        again = draft_block(model.model, both, cache)
        torch.testing.assert_close(again, drafted[:, block], **CLOSE)


# --- blocks ---


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_blocks_stand_at_patch_starts_and_end_with_their_document(corruption):
    model = tiny_model(corruption=corruption)
    ids, lengths = packed_rows(), torch.tensor([44, 31])
    blocks, chunk = blocks_of(model, ids, lengths), segmented(model, ids, lengths)
    for row, length in enumerate(lengths.tolist()):
        document, starts = chunk.document_start[row].tolist(), chunk.starts[row].tolist()
        expected = [s for s in range(length) if starts[s] and document[s] != s]
        found = [(block, anchor) for r, block, anchor, _ in every_block(blocks) if r == row]
        assert [anchor for _, anchor in found] == expected
        for block, anchor in found:
            inside = [p < length and document[p] == document[anchor] for p in range(anchor, anchor + BLOCK)]
            assert blocks.present[row, block].tolist() == inside
            for offset in range(sum(inside)):
                byte, masked = ids[row, anchor + offset], blocks.masked[row, block, offset]
                assert blocks.input_ids[row, block, offset] == (MASK_ID if masked else byte)
                assert not masked or blocks.targets[row, block, offset] == byte
    assert not (blocks.masked & ~blocks.present).any()


def test_random_anchors_stand_anywhere_but_at_the_first_byte_of_a_document():
    model = tiny_model(random_anchor_fraction=1.0)
    ids = packed_rows()
    document, seen = segmented(model, ids).document_start, set()
    for seed in range(60):
        blocks = blocks_of(model, ids, seed=seed)
        seen |= {(row, anchor) for row, _, anchor, _ in every_block(blocks)}
        assert (blocks.anchors[:, 1:] >= blocks.anchors[:, :-1]).all()
    assert seen == {(row, p) for row in range(2) for p in range(44) if document[row, p] != p}


def weights_and_shares(corruption: str, times: str) -> tuple[list[float], list[float]]:
    """Of every row or block of some batches: the one masking probability that its weights state, and how far the
    share of masked bytes lies from it, in standard errors.
    """
    model = tiny_model(corruption=corruption, boundary_share=0.9, diffusion_t_min=0.2)
    ids, drawn, errors = random_rows(3, 600), [], []
    for seed in range(20 if times == "row" else 1):
        blocks = blocks_of(model, ids, seed=seed)
        whole = [(row, block) for row, block, _, size in every_block(blocks) if size == BLOCK]
        for unit in range(3) if times == "row" else whole:
            (weight,) = blocks.weight[unit].unique().tolist()
            masked = blocks.masked[unit][blocks.present[unit]].double()
            t = 1 / weight
            drawn.append(t)
            errors.append(float(masked.mean() - t) / (t * (1 - t) / len(masked)) ** 0.5)
    return drawn, errors


@pytest.mark.parametrize(("corruption", "times"), [("uniform", "row"), ("per_block", "block")])
def test_masking_probabilities_are_drawn_per_row_or_per_block(corruption, times):
    drawn, errors = weights_and_shares(corruption, times)
    t = torch.tensor(drawn)
    assert t.min() >= 0.2 and t.min() < 0.35 and t.max() > 0.85 and len(t.unique()) > 0.99 * len(t)
    # Standardised shares of masked bytes have mean 0 and variance 1.
    z = torch.tensor(errors)
    assert abs(z.mean()) < 5 / len(z) ** 0.5 and z.square().mean() == pytest.approx(1, abs=0.6)


@pytest.mark.parametrize("settings", [{"corruption": "prefix"}, {"corruption": "draft", "draft_fraction": 1.0}])
def test_prefixes_stay_known_and_the_rest_weighs_1(settings):
    model = tiny_model(boundary_share=0.9, **settings)
    blocks = blocks_of(model, random_rows(3, 600))
    whole = blocks.masked[blocks.present.all(-1)]
    known = (~whole).sum(-1)
    assert torch.equal(whole, torch.arange(BLOCK) >= known[:, None])
    shares = [float((known == k).double().mean()) for k in (0, 1)]
    assert shares == pytest.approx([0.4, 0.4], abs=0.05) and set(known.tolist()) == {0, 1, 2, 3, 4}
    assert (blocks.weight == 1).all()


def test_blocks_of_two_bytes_always_have_one_to_predict():
    masked, _ = draw_masks(torch.Size([4, 100, 2]), "prefix", 1e-3, 0.5, torch.device("cpu"))
    assert masked.any(-1).all()


def test_drafts_are_a_mixture_of_prefixes_and_blocks_with_their_own_probability():
    model = tiny_model(corruption="draft", boundary_share=0.9, draft_fraction=0.7, diffusion_t_min=0.2)
    blocks = blocks_of(model, random_rows(3, 600))
    prefix = (blocks.weight == 1).all(-1)
    whole = blocks.present.all(-1)
    assert float(prefix[whole].double().mean()) == pytest.approx(0.7, abs=0.04)
    after = blocks.masked[whole & prefix]
    assert torch.equal(after, torch.arange(BLOCK) >= (~after).sum(-1)[:, None])
    assert len(blocks.weight[whole & ~prefix][:, 0].unique()) == int((whole & ~prefix).sum())


def test_a_share_of_the_blocks_weighs_as_all_of_them():
    model = tiny_model(corruption="draft", boundary_share=0.9, draft_fraction=1.0, block_fraction=0.25)
    ids, full = random_rows(3, 600), tiny_model(corruption="draft", boundary_share=0.9)
    some, total = blocks_of(model, ids), blocks_of(full, ids).present.any(-1).sum()
    assert (some.weight == 4).all()
    assert float(some.present.any(-1).sum() * 4 / total) == pytest.approx(1, abs=0.1)


# --- the loss ---


def test_the_teacher_gets_no_gradient():
    clean = torch.randn(1, 4, 11, requires_grad=True)
    drafted = torch.randn(1, 11, requires_grad=True)
    one = torch.ones(1, 1, 1)
    blocks = Blocks(torch.tensor([[2]]), one.long(), one.long(), one.bool(), one.bool(), one)
    block_loss(drafted, clean, blocks, distillation=0.5).backward()
    assert clean.grad is None and drafted.grad.abs().sum() > 0


def test_a_model_without_blocks_trains_on_the_next_byte_alone():
    model = tiny_model(block_size=None).train()
    output = model(random_rows(2, 20), labels=random_rows(2, 20))
    assert output.diffusion_loss is None and torch.equal(output.loss, output.next_byte_loss)
