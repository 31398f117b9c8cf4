# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Which drafted bytes to accept: the longest agreeing prefix (Algorithm 2), or speculative rejection when sampling.

Pure functions. `draft` is `[batch, r]`; a row drafted only its first `lengths` bytes.
"""

import torch

from .counting_fblt import counting


def _prefix_length(accepted: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Length of the leading run of True in `[batch, r]`, at most `lengths` `[batch]`."""
    position = counting(accepted.shape[1], accepted.device)
    return (accepted & (position < lengths[:, None])).cumprod(dim=1).sum(dim=1)  # counted as int64


def confident_length(confidence: torch.Tensor, threshold: float | None) -> torch.Tensor:
    """Leading positions of `[batch, r]` whose confidence reaches `threshold`: `[batch]`."""
    if threshold is None:
        return torch.full_like(confidence[:, 0], confidence.shape[1], dtype=torch.long)
    return (confidence >= threshold).long().cumprod(dim=1).sum(dim=1)


def accept_greedy(draft: torch.Tensor, lengths: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
    """Length of the longest prefix of a draft that plain decoding would have written.

    Args:
        choice: `[batch, r + 1]`; column `j` is the byte that follows the prefix and the first `j` drafted bytes.

    Returns:
        `[batch]`, accepted bytes `a` in `0 .. lengths`; `choice[a]` is the byte that comes after them.
    """
    if draft.shape[1] == 0:
        return lengths
    return _prefix_length(draft == choice[:, :-1], lengths)


def accept_sampled(
    draft: torch.Tensor,
    lengths: torch.Tensor,
    target: torch.Tensor,
    proposal: torch.Tensor | None,
    uniform: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Speculative rejection: whatever was drafted, the text is distributed as plain sampling would have it.

    Byte `b` of a draft is accepted with probability `min(1, p(b) / q(b))`; at the first rejection the byte is drawn
    from `max(p - q, 0)`, normalised. Where `q` is not known, the draft counts as certain (`q(b) = 1`): `b` is accepted
    with probability `p(b)`, and otherwise another byte is drawn from `p`.

    Args:
        target: `[batch, r + 1, vocab]`, `p`: what plain decoding would draw from after each prefix of the draft.
        proposal: `[batch, r, vocab]`, `q`: what each drafted byte was drawn from; None where that is not known.
        uniform: `[batch, r]`, random numbers in [0, 1).

    Returns:
        `[batch]`, accepted bytes; and `[batch, vocab]`, the distribution to draw the byte after them from.
    """
    if proposal is None:
        proposal = torch.nn.functional.one_hot(draft, target.shape[-1]).to(target.dtype)
    p, q = (d.gather(2, draft[..., None])[..., 0] for d in (target[:, :-1], proposal))
    accepted = _prefix_length(uniform * q < p, lengths)
    following = target[counting(len(target), target.device), accepted]
    # After a whole draft nothing was proposed: the byte is drawn from p itself.
    proposal = torch.nn.functional.pad(proposal, (0, 0, 0, 1))
    proposed = proposal[counting(len(target), target.device), accepted]
    proposed = proposed.masked_fill((accepted == lengths)[:, None], 0)
    left = (following - proposed).clamp(min=0)
    total = left.sum(-1, keepdim=True)
    # p and q may differ by rounding alone, and leave nothing: then either is right.
    return accepted, torch.where(total > 0, left / total.clamp(min=torch.finfo(left.dtype).tiny), following)
