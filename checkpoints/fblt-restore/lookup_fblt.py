# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Drafts looked up in the text itself: what followed the last bytes where they stood before. Pure functions."""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from .generation_state_fblt import Draft

# Shorter matches are chance: three bytes say little about the fourth.
SHORTEST_MATCH = 4
LONGEST_MATCH = 16


def longest_match(text: torch.Tensor, known: torch.Tensor, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each row's last bytes stood before: the longest match, and of equally long ones the latest.

    Args:
        text: `[batch, n]`, right-padded.
        known: `[batch]`, bytes of each row, at least 1.
        longest: bytes that a match is compared over.

    Returns:
        `[batch]`, the position of the byte after the match, in `1 .. known - 1` (0 for a row of one byte); and
        `[batch]`, how many bytes match, 0 .. `longest`. Where none matches, the position is the last byte's own.
    """
    n = text.shape[1]
    position = torch.arange(n, device=text.device)
    back = known[:, None] - 1 - torch.arange(longest, device=text.device)
    last = text.gather(1, back.clamp(min=0)).masked_fill(back < 0, -1)  # [batch, longest], the last byte first
    runs = (position > 0) & (position < known[:, None])
    matched = torch.zeros_like(text)
    for i in range(min(longest, n)):
        # At position p, the byte i + 1 before it against the row's byte i + 1 from its end.
        runs = runs & (F.pad(text[:, : n - 1 - i], (i + 1, 0), value=-2) == last[:, i : i + 1])
        matched = matched + runs
    later = torch.where(position < known[:, None], position, 0)
    where = (matched * n + later).argmax(1)
    return where, matched.gather(1, where[:, None])[:, 0]


def copy_from(text: torch.Tensor, where: torch.Tensor, known: torch.Tensor, r: int) -> torch.Tensor:
    """The `r` bytes from position `where` `[batch]` on: `[batch, r]`.

    A copy that reaches the end of the known bytes goes on with what it has copied, so a text with a period is continued
    by its period.
    """
    period = (known - where).clamp(min=1)
    offset = torch.arange(r, device=text.device) % period[:, None]
    return text.gather(1, where[:, None] + offset)


def with_copies(draft: "Draft", copies: torch.Tensor, lengths: torch.Tensor) -> "Draft":
    """A draft whose rows with `lengths` `[batch]` above 0 are replaced by so many bytes of `copies` `[batch, r]`.

    A copied byte is certain, so where other rows know what their bytes were drawn from, it gets all the probability.
    """
    width = max(draft.ids.shape[1], copies.shape[1])
    copied = lengths > 0
    copies, own = (F.pad(ids, (0, width - ids.shape[1])) for ids in (copies, draft.ids))
    proposals = draft.proposals
    if proposals is not None:
        certain = F.one_hot(copies, proposals.shape[-1]).to(proposals.dtype)
        proposals = F.pad(proposals, (0, 0, 0, width - proposals.shape[1]))
        proposals = torch.where(copied[:, None, None], certain, proposals)
    return replace(
        draft,
        ids=torch.where(copied[:, None], copies, own),
        lengths=torch.where(copied, lengths, draft.lengths),
        proposals=proposals,
    )
