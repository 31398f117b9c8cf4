# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The block objective: what a block may see, that drafting sees the same, and the loss against loops. In float64."""

import dataclasses
import math

import pytest
import torch

from modeling_fblt.cache_fblt import FBLTCache
from modeling_fblt.configuration_fblt import MASK_ID
from modeling_fblt.diffusion_fblt import Blocks, block_loss, build_blocks
from modeling_fblt.steps_fblt import draft_block, feed
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
    """Decoder states of clean bytes and of blocks in the training layout."""
    chunk = segmented(model, ids)
    states = model.model.encode(chunk)
    return model.model.decode_with_blocks(chunk, states, model.model.compress(chunk, states), blocks)


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
        cached = draft_block(model.model, blocks.input_ids[row : row + 1, block, :size], cache)
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
        fed = feed(model.model, ids.gather(1, rest), anchors - half, cache, block_ids=blocks.input_ids[:, block])
        torch.testing.assert_close(fed.block, drafted[:, block], **CLOSE)
        again = draft_block(model.model, blocks.input_ids[:, block], cache)
        torch.testing.assert_close(again, drafted[:, block], **CLOSE)


# --- blocks ---


@pytest.mark.parametrize("corruption", ["uniform", "draft"])
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


def test_uniform_corruption_draws_one_t_per_row():
    model = tiny_model(corruption="uniform", boundary_share=0.9, diffusion_t_min=0.2)
    ids, drawn = random_rows(3, 600), []
    for seed in range(20):
        blocks = blocks_of(model, ids, seed=seed)
        for row in range(3):
            (weight,) = blocks.weight[row].unique().tolist()
            drawn.append(1 / weight)
            share = float(blocks.masked[row][blocks.present[row]].double().mean())
            assert share == pytest.approx(1 / weight, abs=0.06)
    assert min(drawn) >= 0.2 and min(drawn) < 0.35 and max(drawn) > 0.85


def test_draft_corruption_keeps_a_short_prefix_and_weighs_it_as_1():
    model = tiny_model(corruption="draft", boundary_share=0.9, draft_fraction=1.0)
    blocks = blocks_of(model, random_rows(3, 600))
    whole = blocks.masked[blocks.present.all(-1)]
    known = (~whole).sum(-1)
    assert torch.equal(whole, torch.arange(BLOCK) >= known[:, None])
    shares = [float((known == k).double().mean()) for k in (0, 1)]
    assert shares == pytest.approx([0.4, 0.4], abs=0.05) and set(known.tolist()) == {0, 1, 2, 3, 4}
    assert (blocks.weight == 1).all()


def test_a_share_of_the_blocks_weighs_as_all_of_them():
    model = tiny_model(corruption="draft", boundary_share=0.9, draft_fraction=1.0, block_fraction=0.25)
    ids, full = random_rows(3, 600), tiny_model(corruption="draft", boundary_share=0.9)
    some, total = blocks_of(model, ids), blocks_of(full, ids).present.any(-1).sum()
    assert (some.weight == 4).all()
    assert float(some.present.any(-1).sum() * 4 / total) == pytest.approx(1, abs=0.1)


# --- the loss ---


def naive_losses(model, row: torch.Tensor, labels: list[int], blocks: Blocks, index: int) -> tuple[float, float]:
    """Summed next-byte and block loss of one row without padding, one byte and one block at a time."""
    log_p = torch.log_softmax(model(row[None], use_cache=False).logits[0], -1)
    clean = -sum(float(log_p[i, labels[i + 1]]) for i in range(len(row) - 1) if labels[i + 1] != -100)
    drafted, share = 0.0, model.config.distillation
    for at, block, anchor, size in every_block(blocks):
        if at != index:
            continue
        cache = FBLTCache(model.config, 1)
        feed(model.model, row[None, :anchor], torch.tensor([anchor]), cache)
        hidden = draft_block(model.model, blocks.input_ids[index : index + 1, block, :size], cache)
        log_q = torch.log_softmax(model.byte_logits(hidden[0]), -1)
        for offset in range(size):
            position = anchor + offset
            if blocks.input_ids[index, block, offset] != MASK_ID:
                continue
            assert labels[position] != -100
            teacher = log_p[position - 1, :MASK_ID]
            divergence = float((teacher.exp() * (teacher - log_q[offset, :MASK_ID])).sum())
            surprise = -float(log_q[offset, row[position]])
            weight = float(blocks.weight[index, block, offset])
            drafted += weight * ((1 - share) * surprise + share * divergence)
    return clean, drafted


@pytest.mark.parametrize("count", [None, 1000])
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize(
    ("corruption", "distillation"), [("uniform", 0.0), ("uniform", 1.0), ("draft", 0.0), ("draft", 0.4)]
)
def test_the_two_term_loss_equals_loops_over_bytes_and_blocks(corruption, distillation, padding, count):
    model = tiny_model(corruption=corruption, distillation=distillation, diffusion_loss_weight=0.7, diffusion_t_min=0.1)
    rows = [packed_row(9, 18, seed=3)[0], random_rows(1, 15, seed=4)[0]]
    wanted = [row.tolist() for row in rows]
    wanted[0][5:8] = [-100] * 3  # a prompt in the middle, and one at the beginning
    wanted[1][:6] = [-100] * 6

    width = 27
    ids, mask, labels = torch.zeros(2, width).long(), torch.zeros(2, width).long(), torch.full((2, width), -100)
    for i, row in enumerate(rows):
        real = slice(width - len(row), None) if padding == "left" else slice(len(row))
        ids[i, real], mask[i, real], labels[i, real] = row, 1, torch.tensor(wanted[i])

    torch.manual_seed(7)
    output = model.train()(
        ids, attention_mask=mask, labels=labels, **({} if count is None else {"num_items_in_batch": count})
    )
    model.eval().requires_grad_(False)
    right = torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in rows])
    targets = torch.full((2, width), -100)
    for i, known in enumerate(wanted):
        targets[i, : len(known) - 1] = torch.tensor(known[1:])
    lengths = torch.tensor([len(row) for row in rows])
    chunk = segmented(model, right, lengths)
    torch.manual_seed(7)
    blocks = build_blocks(right, targets, chunk.starts[:, :-1], chunk.document_start[:, :-1], lengths, model.config)
    losses = [naive_losses(model, row, wanted[i], blocks, i) for i, row in enumerate(rows)]
    divisor = count or int((targets != -100).sum())
    clean, drafted = (sum(term) / divisor for term in zip(*losses, strict=True))
    assert float(output.next_byte_loss) == pytest.approx(clean, rel=1e-9)
    assert float(output.diffusion_loss) == pytest.approx(drafted, rel=1e-9)
    assert output.loss.item() == pytest.approx(clean + 0.7 * drafted, rel=1e-9)
    assert drafted > 0 and math.isfinite(drafted)


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
