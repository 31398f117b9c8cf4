# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The two-term loss against a slow one: one row, one block at a time through the decoder, masks drawn by loops."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_fblt import modeling_fblt as forward_pass
from modeling_fblt.attention_fblt import SquareContext
from modeling_fblt.block_loss_fblt import Blocks, build_blocks
from modeling_fblt.configuration_fblt import CORRUPTIONS, EOS_ID, MASK_ID
from tests.modeling.tiny import BLOCK, DECODER_WINDOW, packed_row, tiny_config, tiny_model

SIZES = {torch.float64: 1e-9, torch.float32: 1e-5}


@functools.cache
def model_of(dtype: torch.dtype):
    return tiny_model(dtype=dtype).train().requires_grad_(False)


def random_starts(row: list[int], generator: torch.Generator) -> list[bool]:
    """Patch starts of a row and of the position after it; the first two bytes of each document start patches."""
    starts = (torch.rand(len(row) + 1, generator=generator) < 0.35).tolist()
    for position in range(len(row) + 1):
        fresh = position == 0 or row[position - 1] == EOS_ID
        second = position == 1 or (position > 1 and row[position - 2] == EOS_ID)
        starts[position] = starts[position] or fresh or second
    return starts


def document_of(row: list[int]) -> list[int]:
    """Number of each byte's document."""
    return [row[:position].count(EOS_ID) for position in range(len(row))]


def slow_losses(model, row: list[int], starts: list[bool], labels: list[int], blocks: Blocks, index: int):
    """Summed next-byte and block loss of one row, and how many blocks it has."""
    n, document, size = len(row), document_of(row), BLOCK
    ids = torch.tensor([row])
    # Encoder and global transformer see the clean row alone.
    base = model.model
    chunk = base.begin_chunk(ids, torch.tensor([n]), None)
    base.segment(chunk, torch.tensor([starts]))
    latents = base.compress(chunk, base.encode(chunk))
    # Entry `i` is the latent of the `i`-th patch, counted from 1: the last one that is complete once a byte is known.
    latent_of = [sum(starts[: j + 2]) - 1 for j in range(n)]

    def logits_with(anchor: int, known: list[int]) -> torch.Tensor:
        total = n + len(known)
        mask = torch.zeros(1, total, total, dtype=torch.bool)
        for query in range(total):
            for key in range(total):
                position = query if query < n else anchor + query - n
                if key >= n:
                    mask[0, query, key] = query >= n
                elif document[key] == document[min(position, anchor if query >= n else n)]:
                    near = position - DECODER_WINDOW < key <= position
                    mask[0, query, key] = near and (query < n or key < anchor)
        hidden = base.decoder.embed_tokens(torch.tensor([row + known]))
        reads = torch.tensor([latent_of + [latent_of[anchor - 1]] * len(known)])
        positions = torch.tensor([list(range(n)) + list(range(anchor, anchor + len(known)))])
        return model.byte_logits(base.decoder(hidden, latents, reads, positions, SquareContext(mask)))[0]

    log_p = torch.log_softmax(logits_with(1, []), -1)
    clean = -sum(float(log_p[i, labels[i + 1]]) for i in range(n - 1) if labels[i + 1] != -100)
    drafted, count, share = 0.0, 0, model.config.distillation
    for block, anchor in enumerate(blocks.anchors[index].tolist()):
        inside = [p for p in range(anchor, anchor + size) if p < n and document[p] == document[anchor]]
        if not blocks.present[index, block].any():
            continue
        count += 1
        assert blocks.present[index, block].sum() == len(inside)
        known = blocks.input_ids[index, block, : len(inside)].tolist()
        assert all(byte in (row[p], MASK_ID) for byte, p in zip(known, inside, strict=True))
        log_q = torch.log_softmax(logits_with(anchor, known)[n:], -1)
        for offset, (byte, position) in enumerate(zip(known, inside, strict=True)):
            if byte != MASK_ID:
                continue
            assert labels[position] != -100
            teacher = log_p[position - 1, :MASK_ID]
            divergence = float((teacher.exp() * (teacher - log_q[offset, :MASK_ID])).sum())
            surprise = -float(log_q[offset, row[position]])
            weight = float(blocks.weight[index, block, offset])
            drafted += weight * ((1 - share) * surprise + share * divergence)
    return clean, drafted, count


@st.composite
def cases(draw):
    return {
        "dtype": draw(st.sampled_from(list(SIZES))),
        "seed": draw(st.integers(0, 2**20)),
        "documents": draw(st.lists(st.lists(st.integers(2, 14), min_size=1, max_size=3), min_size=1, max_size=2)),
        "left": draw(st.booleans()),
        "unlabelled": draw(st.sampled_from([0.0, 0.3])),
        "count": draw(st.sampled_from([None, 1000])),
        "config": {
            "corruption": draw(st.sampled_from(CORRUPTIONS)),
            "distillation": draw(st.sampled_from([0.0, 0.5, 1.0])),
            "block_fraction": draw(st.sampled_from([1.0, 0.5])),
            "random_anchor_fraction": draw(st.sampled_from([0.0, 0.6])),
            "diffusion_t_min": 0.1,
            "diffusion_loss_weight": 0.7,
        },
    }


@settings(max_examples=25, deadline=None)
@given(case=cases())
def test_the_two_term_loss_equals_loops_over_blocks(case):
    dtype, seed = case["dtype"], case["seed"]
    model, generator = model_of(dtype), torch.Generator().manual_seed(seed)
    for field, value in case["config"].items():
        setattr(model.config, field, value)
    rows = [packed_row(*lengths, seed=seed + i)[0].tolist() for i, lengths in enumerate(case["documents"])]
    starts = [random_starts(row, generator) for row in rows]
    drop = [(torch.rand(len(row), generator=generator) < case["unlabelled"]).tolist() for row in rows]
    labels = [
        [-100 if gone else byte for byte, gone in zip(*pair, strict=True)] for pair in zip(rows, drop, strict=True)
    ]

    # Padding on either side.
    width = max(map(len, rows)) + 3
    ids, mask = torch.zeros(len(rows), width).long(), torch.zeros(len(rows), width).long()
    given_labels, given_starts = torch.full_like(ids, -100), torch.zeros(len(rows), width + 1, dtype=torch.bool)
    for i, row in enumerate(rows):
        first = width - len(row) if case["left"] else 0
        real = slice(first, first + len(row))
        ids[i, real], mask[i, real], given_labels[i, real] = torch.tensor(row), 1, torch.tensor(labels[i])
        given_starts[i, first : first + len(row) + 1] = torch.tensor(starts[i])

    recorded = []

    def recording(*arguments):
        recorded.append(original(*arguments))
        return recorded[-1]

    original = forward_pass.build_blocks
    torch.manual_seed(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward_pass, "build_blocks", recording)
        count = {} if case["count"] is None else {"num_items_in_batch": case["count"]}
        output = model(ids, attention_mask=mask, labels=given_labels, patch_starts=given_starts, **count)

    losses = [slow_losses(model, row, starts[i], labels[i], recorded[0], i) for i, row in enumerate(rows)]
    for row, start, (_, _, blocks) in zip(rows, starts, losses, strict=True):
        document = document_of(row)
        expected = sum(start[p] and document[p] == document[p - 1] for p in range(1, len(row)))
        assert blocks <= expected and (case["config"]["block_fraction"] < 1 or blocks == expected)
    targets = sum(label != -100 for row in labels for label in row[1:])
    divisor = case["count"] or max(targets, 1)
    clean, drafted = (sum(loss[term] for loss in losses) / divisor for term in (0, 1))
    close = functools.partial(pytest.approx, rel=SIZES[dtype], abs=SIZES[dtype])
    assert float(output.next_byte_loss) == close(clean)
    assert float(output.diffusion_loss) == close(drafted)
    assert float(output.loss) == close(clean + 0.7 * drafted)
    assert math.isfinite(drafted)


@pytest.mark.parametrize("anywhere", [0.0, 0.5])
@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_share_of_the_blocks_has_the_loss_of_all_in_expectation(corruption, anywhere):
    """For any loss of a byte at an offset: the means over many rows agree within five standard errors."""
    ids = packed_row(30, 60).expand(4000, -1)
    generator = torch.Generator().manual_seed(0)
    starts = torch.tensor(random_starts(ids[0].tolist(), generator))[:-1].expand_as(ids)
    document = torch.tensor([0] * 30 + [30] * 60).expand_as(ids)
    loss = torch.rand(90, BLOCK, generator=generator)
    means = []
    for fraction in (1.0, 0.4):
        config = tiny_config(
            corruption=corruption, block_fraction=fraction, random_anchor_fraction=anywhere, diffusion_t_min=0.3
        )
        torch.manual_seed(7)
        blocks = build_blocks(ids, ids, starts, document, torch.full((len(ids),), 90), config)
        rows = (loss[blocks.anchors] * blocks.weight * blocks.masked).sum((1, 2)).double()
        means.append((rows.mean(), rows.std() / len(rows) ** 0.5))
    (whole, first_error), (part, second_error) = means
    error = (first_error**2 + second_error**2) ** 0.5
    assert error < 0.02 * whole and abs(part - whole) < 5 * error


# --- gradient checkpointing ---


def gradients(model, ids: torch.Tensor) -> tuple[float, dict[str, torch.Tensor]]:
    torch.manual_seed(3)
    model.zero_grad()
    output = model(ids, labels=ids)
    output.loss.backward()
    return output.loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_gradients_are_equal(use_reentrant, implementation):
    model = tiny_model(corruption="draft", random_anchor_fraction=0.5, distillation=0.5).train()
    model.set_attn_implementation(implementation)
    ids = torch.cat([packed_row(44, seed=1), packed_row(17, 2, 25, seed=2)])
    loss, expected = gradients(model, ids)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    layers = [*model.model.encoder.layers, *model.model.global_transformer.layers, *model.model.decoder.layers]
    assert all(layer.gradient_checkpointing for layer in layers)
    again, found = gradients(model, ids)
    assert found.keys() == expected.keys()
    # Reentrant checkpointing runs layers without gradients, where torch may take another matrix product.
    assert again == (pytest.approx(loss, rel=1e-14) if use_reentrant else loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-10, rtol=0, msg=name)


def test_checkpointed_layers_run_again_in_the_backward_pass():
    model, ids = tiny_model().train(), packed_row(44)
    model.gradient_checkpointing_enable()
    calls = []
    watched = model.model.decoder.layers[0].feed_forward
    handle = watched.register_forward_pre_hook(lambda *_: calls.append(1))
    gradients(model, ids)
    handle.remove()
    assert len(calls) == 2


def test_a_norm_has_the_gradient_of_its_formula():
    norm = tiny_model().model.decoder.norm
    x = torch.randn(2, 3, 32, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(32, dtype=torch.float64, requires_grad=True)

    def call(x, weight):
        return torch.func.functional_call(norm, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(call, (x, weight))
    torch.testing.assert_close(call(x, weight), F.rms_norm(x, (32,), weight, norm.variance_epsilon))
