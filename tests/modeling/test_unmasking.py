# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The unmasking rules, against loops over one row."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_fblt.unmasking_fblt import by_confidence, by_entropy, from_left, in_one_step

ROWS = st.lists(
    st.lists(st.tuples(st.floats(0.01, 0.99), st.booleans()), min_size=6, max_size=6), min_size=1, max_size=3
)


def naive_confidence(confidence: list[float], masked: list[bool], threshold: float) -> set[int]:
    left = [i for i, hidden in enumerate(masked) if hidden]
    chosen = {i for i in left if confidence[i] > threshold}
    return chosen or set(left[:1] and [max(left, key=lambda i: confidence[i])])


def naive_entropy(entropy: list[float], masked: list[bool], bound: float) -> set[int]:
    left = sorted((i for i, hidden in enumerate(masked) if hidden), key=lambda i: entropy[i])
    chosen, spent = set(left[:1]), 0.0
    for i in left:
        spent += entropy[i]
        if spent > bound:
            break
        chosen.add(i)
    return chosen


def naive_from_left(confidence: list[float], masked: list[bool], threshold: float) -> set[int]:
    chosen = set()
    for i in (i for i, hidden in enumerate(masked) if hidden):
        if chosen and confidence[i] < threshold:
            break
        chosen.add(i)
    return chosen


def as_sets(chosen: torch.Tensor) -> list[set[int]]:
    return [set(row.nonzero()[:, 0].tolist()) for row in chosen]


def split(rows) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.tensor([[value for value, _ in row] for row in rows], dtype=torch.float64)
    # Distinct, so that which of two equals goes first is no question.
    values = values + torch.arange(values.shape[1]) * 1e-7
    return values, torch.tensor([[hidden for _, hidden in row] for row in rows])


@settings(max_examples=80, deadline=None, derandomize=True)
@given(rows=ROWS, threshold=st.floats(0.0, 1.0))
def test_confidence_equals_a_loop(rows, threshold):
    values, masked = split(rows)
    expected = [naive_confidence(v, m, threshold) for v, m in zip(values.tolist(), masked.tolist(), strict=True)]
    assert as_sets(by_confidence(values, masked, threshold)) == expected


@settings(max_examples=80, deadline=None, derandomize=True)
@given(rows=ROWS, bound=st.floats(0.0, 3.0))
def test_entropy_equals_a_loop(rows, bound):
    values, masked = split(rows)
    expected = [naive_entropy(v, m, bound) for v, m in zip(values.tolist(), masked.tolist(), strict=True)]
    assert as_sets(by_entropy(values, masked, bound)) == expected


@settings(max_examples=80, deadline=None, derandomize=True)
@given(rows=ROWS, threshold=st.floats(0.0, 1.0))
def test_from_left_equals_a_loop(rows, threshold):
    values, masked = split(rows)
    expected = [naive_from_left(v, m, threshold) for v, m in zip(values.tolist(), masked.tolist(), strict=True)]
    assert as_sets(from_left(values, masked, threshold)) == expected


def test_one_step_fills_in_everything():
    masked = torch.tensor([[True, False, True], [False, False, False]])
    assert torch.equal(in_one_step(masked), masked)


def test_the_confidence_threshold_is_strict():
    masked = torch.ones(1, 3, dtype=torch.bool)
    assert as_sets(by_confidence(torch.tensor([[0.5, 0.75, 0.7]]), masked, 0.75)) == [{1}]
    assert as_sets(by_confidence(torch.tensor([[0.5, 0.75, 0.8]]), masked, 0.75)) == [{2}]


def test_entropies_may_sum_to_the_bound():
    masked = torch.ones(1, 3, dtype=torch.bool)
    assert as_sets(by_entropy(torch.tensor([[0.5, 0.25, 9.0]]), masked, 0.75)) == [{0, 1}]
