# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Which drafted bytes to accept (Algorithm 2). Pure functions."""

import torch


def accept_greedy(draft: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
    """Length of the longest prefix of a draft that plain decoding would have written.

    Args:
        draft: `[batch, r]`, drafted bytes.
        choice: `[batch, r + 1]`; column `j` is the byte that follows the prefix and the first `j` drafted bytes.

    Returns:
        `[batch]`, accepted bytes `a` in `0 .. r`; `choice[a]` is the byte that comes after them.
    """
    return (draft == choice[:, :-1]).long().cumprod(dim=1).sum(dim=1)
