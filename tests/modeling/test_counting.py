# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Constants kept per device: they are what is asked for, and are told from tensors that only look like them."""

import torch

from modeling_fblt.counting_fblt import counted_from, counting, descending, one_of, scalar

CPU = torch.device("cpu")


def test_numbers_are_those_asked_for():
    for start, end in ((0, 0), (0, 5), (-3, 4), (-70, -60), (7, 5000), (4990, 9000)):
        assert counting(end, CPU, start).tolist() == list(range(start, end))
    assert descending(3, CPU).tolist() == [2, 1, 0] and one_of(1, 3, CPU).tolist() == [False, True, False]
    assert scalar(-1, torch.long, CPU).item() == -1 and scalar(0.5, torch.float64, CPU).dtype == torch.float64


def test_what_counting_gave_is_known_on_the_host():
    for start, end in ((0, 1), (3, 9), (-2, 4)):
        numbers = counting(end, CPU, start)
        for seen in (numbers[None], numbers.expand(4, -1), numbers.expand(4, -1)[:, 1:], numbers[None, :1]):
            if seen.numel():
                assert counted_from(seen) == seen[0, 0]


def test_anything_else_is_not():
    numbers = counting(12, CPU)
    for seen in (
        numbers[None].clone(),
        numbers[None, ::2],
        numbers.view(3, 4),
        numbers.unfold(0, 3, 1),
        numbers.flip(0)[None],
        numbers[:, None].expand(-1, 3),
    ):
        assert counted_from(seen) is None
