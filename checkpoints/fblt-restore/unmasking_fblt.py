# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Which positions of a masked block to fill in next (paper section 2). Pure functions.

Each rule is given scores of the positions, and which are `masked`, both `[batch, block_size]`. It returns the positions
to unmask now: at least one in every row that has a masked position left.
"""

import torch

UNMASKING = ("confidence", "entropy", "one_step", "sequential")
# Rules under which what is filled in depends on the bytes before it alone: a byte's distribution is known then.
IN_ORDER = ("one_step", "sequential")


def _or_best(chosen: torch.Tensor, score: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """`chosen`, and the masked position of the highest score in rows where nothing was chosen."""
    best = torch.zeros_like(masked).scatter(1, score.masked_fill(~masked, -torch.inf).argmax(1, keepdim=True), True)
    return torch.where(chosen.any(1, keepdim=True), chosen, best & masked)


def by_confidence(confidence: torch.Tensor, masked: torch.Tensor, threshold: float) -> torch.Tensor:
    """Every position whose top probability exceeds `threshold` (the paper's alpha), else the most confident one.

    Args:
        confidence: `[batch, block_size]`, probability of the most likely byte.
    """
    return _or_best(masked & (confidence > threshold), confidence, masked)


def by_entropy(entropy: torch.Tensor, masked: torch.Tensor, bound: float) -> torch.Tensor:
    """The lowest-entropy positions whose entropies, in nats, sum to at most `bound` (the paper's gamma); at least one.

    Args:
        entropy: `[batch, block_size]`, of each position's predicted distribution.
    """
    ordered, order = entropy.masked_fill(~masked, torch.inf).sort(dim=1)
    within = ordered.cumsum(1) <= bound
    chosen = torch.zeros_like(masked).scatter(1, order, within) & masked
    return _or_best(chosen, -entropy, masked)


def from_left(confidence: torch.Tensor, masked: torch.Tensor, threshold: float) -> torch.Tensor:
    """The leading masked positions whose top probability reaches `threshold`, and at least the first.

    Args:
        confidence: `[batch, block_size]`, probability of the most likely byte.
    """
    sure = ~masked | (confidence >= threshold)
    first = masked & (masked.long().cumsum(1) == 1)
    return masked & ((sure | first).long().cumprod(1) == 1)


def in_one_step(masked: torch.Tensor) -> torch.Tensor:
    """Every masked position at once."""
    return masked
