# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Greedy acceptance, against a loop."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_fblt.verification_fblt import accept_greedy


def naive_accepted(draft: list[int], choice: list[int]) -> int:
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
    accepted = accept_greedy(torch.tensor(draft, dtype=torch.long).view(batch, r), torch.tensor(choice))
    assert accepted.tolist() == [naive_accepted(d, c) for d, c in zip(draft, choice, strict=True)]
