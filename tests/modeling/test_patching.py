# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Patch starts, against a loop over bytes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_fblt.configuration_fblt import BOS_ID, BYTE_OFFSET, EOS_ID
from modeling_fblt.patching_fblt import (
    PatchingState,
    document_starts,
    entropies_from_logits,
    is_separator,
    patch_starts,
    raw_boundaries,
)
from tests.modeling.tiny import packed_row, random_rows, tiny_model

THRESHOLD, PATCH_SIZE = 0.5, 3


def naive_starts(
    ids: list[int], entropies: list[float], mode: str, longest: int | None, isolate: bool, threshold: float = THRESHOLD
) -> list[bool]:
    """Patch starts of one row, next position included, one byte after the other."""
    starts, origin, last = [], 0, 0
    for s in range(len(ids) + 1):
        if isolate and s > 0 and ids[s - 1] == EOS_ID:
            origin = s
        if s - origin <= 1:
            start = True
        elif mode == "entropy":
            start = entropies[s - 1] > threshold
        elif mode == "static":
            start = (s - origin - 1) % PATCH_SIZE == 0
        else:
            ends = naive_space_like(ids[s - 1]) and not naive_space_like(ids[s - 2])
            start = ids[s - 1] < BYTE_OFFSET or ends
        start = start or (longest is not None and s - last == longest)
        last = s if start else last
        starts.append(start)
    return starts


def naive_space_like(token: int) -> bool:
    """Meta's rule: neither an ASCII letter or digit nor a continuation byte of UTF-8."""
    byte = token - BYTE_OFFSET
    return not (0 <= byte < 256 and (chr(byte).isalnum() if byte < 128 else byte < 0xC0))


def computed_starts(
    ids: list[int], entropies: list[float], mode: str, longest: int | None, isolate: bool
) -> list[bool]:
    row, known = torch.tensor([ids]), torch.tensor([entropies])
    state = PatchingState.initial(1, row.device)
    document = document_starts(is_separator(row, EOS_ID), state.position, state.document_start)
    # Documents count for the rule of static patching only where they are isolated.
    origin = document if isolate else torch.zeros_like(document)
    boundaries = raw_boundaries(mode, row, known, state, origin, THRESHOLD, PATCH_SIZE)
    return patch_starts(boundaries, state, document, longest, isolate)[0].tolist()


TOKENS = [EOS_ID, BOS_ID, *(BYTE_OFFSET + byte for byte in b"a Z9.\n\x00\x80\xbf\xc3\xff")]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    row=st.lists(st.tuples(st.sampled_from(TOKENS), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=30),
    mode=st.sampled_from(["entropy", "static", "space"]),
    longest=st.sampled_from([None, 1, 2, 3, 7]),
    isolate=st.booleans(),
)
def test_starts_equal_a_loop_over_bytes(row, mode, longest, isolate):
    ids, entropies = (list(part) for part in zip(*row, strict=True))
    assert computed_starts(ids, entropies, mode, longest, isolate) == naive_starts(
        ids, entropies, mode, longest, isolate
    )


@pytest.mark.parametrize("isolate", [True, False])
@pytest.mark.parametrize("mode", ["entropy", "static", "space"])
def test_the_models_patches_equal_a_loop_over_bytes(mode, isolate):
    model = tiny_model(patching_mode=mode, patch_size=PATCH_SIZE, isolate_documents=isolate)
    ids = torch.cat([packed_row(9, 1, 14, 3, seed=seed) for seed in range(3)])
    ids[:, 3::4] = BYTE_OFFSET + ord(" ")
    ids[:, 8], ids[:, 9] = EOS_ID, EOS_ID
    output = model.patch(ids)
    for row, starts in enumerate(output.patch_starts.tolist()):
        entropies = output.entropies[row].tolist() if mode == "entropy" else [0.0] * ids.shape[1]
        threshold, longest = model.config.patching_threshold, model.config.max_patch_length
        assert starts == naive_starts(ids[row].tolist(), entropies, mode, longest, isolate, threshold)


def test_patches_without_a_limit_may_be_long():
    model = tiny_model(boundary_share=0.05, max_patch_length=None)
    starts = model.patch(random_rows(1, 150)).patch_starts[0].nonzero()[:, 0]
    assert (starts[1:] - starts[:-1]).max() > 10


def test_the_threshold_is_strict():
    assert computed_starts([10] * 4, [THRESHOLD] * 4, "entropy", None, True) == [True, True, False, False, False]


def test_entropies_are_in_nats():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3.0), 0.0, -1e9, -1e9]], dtype=torch.float64)
    expected = [math.log(4), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))]
    assert entropies_from_logits(logits).tolist() == pytest.approx(expected)


def test_several_ids_may_end_a_document():
    assert is_separator(torch.tensor([[2, 5, 7]]), [2, 7]).tolist() == [[True, False, True]]
    assert not is_separator(torch.tensor([[2, 5]]), None).any()
