# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Greedy acceptance against a loop over bytes, and speculative rejection against what it must give: p itself."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_fblt.verification_fblt import accept_greedy, accept_sampled

VOCAB = 4


def naive_prefix(draft: list[int], choice: list[int]) -> int:
    accepted = 0
    while accepted < len(draft) and draft[accepted] == choice[accepted]:
        accepted += 1
    return accepted


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data(), batch=st.integers(1, 4), r=st.integers(0, 6))
def test_the_longest_agreeing_prefix_is_accepted(data, batch, r):
    token = st.integers(4, 5)
    draft = data.draw(st.lists(st.lists(token, min_size=r, max_size=r), min_size=batch, max_size=batch))
    choice = data.draw(st.lists(st.lists(token, min_size=r + 1, max_size=r + 1), min_size=batch, max_size=batch))
    lengths = data.draw(st.lists(st.integers(0, r), min_size=batch, max_size=batch))
    ids = torch.tensor(draft, dtype=torch.long).view(batch, r)
    accepted = accept_greedy(ids, torch.tensor(lengths), torch.tensor(choice))
    expected = [naive_prefix(d[:n], c) for d, n, c in zip(draft, lengths, choice, strict=True)]
    assert accepted.tolist() == expected


def distributions(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(*shape, VOCAB, generator=generator, dtype=torch.float64) ** 2
    p[..., 1] *= torch.rand(shape, generator=generator) < 0.7  # zeros occur: top-k leaves many
    return p / p.sum(-1, keepdim=True)


def law_of_the_next_byte(target: torch.Tensor, proposal: torch.Tensor | None, draft_law: torch.Tensor) -> torch.Tensor:
    """Exact law `[vocab]` of the first new byte: over all drafts of one byte, and a fine grid of random numbers."""
    grid = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    law = torch.zeros(VOCAB, dtype=torch.float64)
    for byte in range(VOCAB):
        draft = torch.full((len(grid), 1), byte)
        many = (len(grid), -1, -1)
        accepted, following = accept_sampled(
            draft,
            torch.ones(len(grid), dtype=torch.long),
            target.expand(*many),
            None if proposal is None else proposal.expand(*many),
            grid[:, None],
        )
        first = torch.where((accepted > 0)[:, None], torch.nn.functional.one_hot(draft[:, 0], VOCAB), following)
        law += draft_law[byte] * first.mean(0)
    return law


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("known", [True, False])
def test_the_next_byte_is_distributed_as_if_nothing_had_been_drafted(seed, known):
    target, proposal = distributions(1, 2, seed=seed), distributions(1, 1, seed=seed + 100)
    law = law_of_the_next_byte(target, proposal if known else None, proposal[0, 0])
    torch.testing.assert_close(law, target[0, 0], atol=2e-4, rtol=0)


def test_after_a_whole_draft_the_byte_is_drawn_from_the_model():
    target = distributions(3, 3, seed=1)
    draft = torch.tensor([[0, 0], [2, 2], [3, 0]])
    lengths = torch.tensor([2, 0, 1])
    accepted, following = accept_sampled(draft, lengths, target, target[:, :2], torch.zeros(3, 2, dtype=torch.float64))
    assert accepted.tolist() == [2, 0, 1]
    torch.testing.assert_close(following, target[torch.arange(3), accepted])


def test_a_byte_that_the_model_never_writes_is_never_accepted():
    target = torch.tensor([[[0.0, 1.0], [0.5, 0.5]]])
    for proposal in (None, torch.tensor([[[1.0, 0.0]]])):
        accepted, following = accept_sampled(
            torch.tensor([[0]]), torch.tensor([1]), target, proposal, torch.tensor([[0.0]])
        )
        assert accepted.tolist() == [0] and following.tolist() == [[0.0, 1.0]]


def test_equal_distributions_accept_everything():
    target = distributions(5, 4, seed=3)
    for draft in itertools.product(range(VOCAB), repeat=3):
        ids = torch.tensor(draft).expand(5, 3)
        possible = target[:, :3].gather(2, ids[..., None]).gt(0).all(1)[:, 0]
        uniform = torch.full((5, 3), 0.999, dtype=torch.float64)
        accepted, _ = accept_sampled(ids, torch.full((5,), 3), target, target[:, :3], uniform)
        assert (accepted[possible] == 3).all()
