# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""How long a draft should be, how it is made and how often refined: from acceptance so far against measured costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from .draft_costs_fblt import DraftCosts

# Of the evidence before a round, this share still counts after it: acceptance changes with the text.
MEMORY = 0.9
GUESS = (3.0, 1.0)  # bytes accepted and rejected that each way of drafting begins with; soon forgotten
TRIALS = 2  # rounds that each way gets at the beginning
EVERY = 16  # of so many rounds, one is given to a way that does not look best, in turn


@dataclass(frozen=True)
class Way:
    """One way of making a draft.

    Attributes:
        passes: refinement passes.
        fixed: cost, whatever the length, a round without a draft being 1.
        byte: cost of one more byte, its verification included.
        lengths: lengths that may be chosen, in bytes.
    """

    passes: int
    fixed: float
    byte: float
    lengths: range


def ways_of(
    costs: DraftCosts, passes: Sequence[int], lengths: range, block: int, looked_up: range, head: bool = False
) -> tuple[list[Way], Way | None]:
    """The ways that a decoding has to draft, one for each number of passes; and lookup, if it has that.

    A block is filled in by one call over all its positions. Without blocks, a draft without passes takes a call for
    every byte, and one with passes starts from a guess that costs nothing. Each pass is a call over the draft.

    Args:
        lengths: that a draft may have; empty for a decoding that drafts nothing by itself.
        block: positions of a block; 0 for drafts of the decoder's own.
        looked_up: lengths that a looked-up draft may have; empty without lookup.
        head: whether a draft head chooses a block's bytes, step by step.
    """
    ways = []
    for n in passes if lengths else ():
        fixed, byte = n * costs.call, n * costs.byte + costs.verified
        if block:
            fixed += costs.call + (block - 1) * costs.byte + head * block * costs.head
        elif n == 0:
            byte += costs.call
        ways.append(Way(n, fixed, byte, lengths))
    return ways, Way(0, 0.0, costs.verified, looked_up) if looked_up else None


def best_lengths(acceptance: torch.Tensor, way: Way) -> tuple[torch.Tensor, torch.Tensor]:
    """The draft length that writes most bytes per unit of cost, and how many that is.

    If each drafted byte is accepted with probability `a`, a round with a draft of `r` bytes writes `1 + a + ... + a^r`.

    Args:
        acceptance: `[batch]`.

    Returns:
        `[batch]` lengths, of equally good ones the shortest; `[batch]` bytes per cost.
    """
    lengths = torch.arange(way.lengths.start, way.lengths.stop, device=acceptance.device)
    powers = acceptance[:, None] ** torch.arange(way.lengths.stop, device=acceptance.device)
    earned = powers.cumsum(1)[:, lengths] / (1 + way.fixed + way.byte * lengths)
    best, index = earned.max(dim=1)
    return lengths[index], best


@dataclass
class Plan:
    """What to draft in a round.

    Attributes:
        passes: refinement passes, the same for all rows, which share the calls.
        lengths: `[batch]`, bytes of a draft of the decoding's own.
        looked_up: `[batch]`, bytes of a looked-up draft, where the text has a match; 0: not worthwhile. None without
            lookup.
        longest: all rows' length where it does not depend on the rows, so that the host need not wait for it.
    """

    passes: int
    lengths: torch.Tensor
    looked_up: torch.Tensor | None = None
    longest: int | None = None


class FixedPace:
    """Every round alike: the longest draft, as many passes as asked for, and lookup wherever there is a match."""

    def __init__(self, passes: int, longest: int, looked_up: int | None):
        self.passes, self.longest, self.looked_up = passes, longest, looked_up

    def plan(self, ready: torch.Tensor) -> Plan:
        looked_up = None if self.looked_up is None else torch.full_like(ready, self.looked_up, dtype=torch.long)
        lengths = torch.full_like(ready, self.longest, dtype=torch.long)
        return Plan(self.passes, lengths, looked_up, self.longest)

    def observe(self, drafted: torch.Tensor, accepted: torch.Tensor, copied: torch.Tensor | None) -> None:
        pass

    def select(self, rows: torch.Tensor) -> None:
        pass


class Pace:
    """Chooses each round's number of passes for the batch, and draft length and lookup for each row.

    It keeps, for each row and each way of drafting, what share of drafted bytes was accepted lately, and takes what by
    [`best_lengths`] writes most bytes per unit of cost. Passes are calls that all rows share, so their number is the
    best for the rows' sum. What does not look best is tried again now and then, as texts change: see `TRIALS`, `EVERY`.

    All is decided by earlier rounds, never by the bytes that are being drafted, so sampling stays exact.

    Args:
        ways: gives, from the number of rows, the decoding's own ways, and lookup's or None.
    """

    def __init__(self, ways: Callable[[int], tuple[list[Way], Way | None]]):
        self.find_ways = ways
        self.ways: list[Way] = []
        self.lookup: Way | None = None
        self.accepted = self.rejected = torch.empty(0)  # [batch, ways], lookup's the last
        self.round, self.used = 0, 0

    def _begin(self, rows: int, device: torch.device) -> None:
        self.ways, self.lookup = self.find_ways(rows)
        shape = (rows, len(self.ways) + (self.lookup is not None))
        self.accepted, self.rejected = (torch.full(shape, value, device=device) for value in GUESS)

    def plan(self, ready: torch.Tensor) -> Plan:
        """For the rows that are `ready` `[batch]` for a draft."""
        if self.round == 0:
            self._begin(len(ready), ready.device)
        turn = self.round
        self.round += 1
        acceptance = self.accepted / (self.accepted + self.rejected)
        lengths, earned = [torch.zeros_like(ready, dtype=torch.long)], [torch.zeros_like(acceptance[:, 0])]
        if self.ways:
            found = [best_lengths(acceptance[:, i], way) for i, way in enumerate(self.ways)]
            lengths, earned = zip(*found, strict=True)
        trial = turn < TRIALS * len(self.ways) or turn % EVERY == EVERY - 1
        if len(self.ways) <= 1:
            self.used = 0
        elif trial:
            self.used = (turn if turn < TRIALS * len(self.ways) else turn // EVERY) % len(self.ways)
        else:
            self.used = int((torch.stack(earned) * ready).sum(1).argmax())
        plan = Plan(self.ways[self.used].passes if self.ways else 0, lengths[self.used])
        if self.lookup is not None:
            looked_up, worth = best_lengths(acceptance[:, -1], self.lookup)
            plan.looked_up = torch.where((worth >= earned[self.used]) | (turn % EVERY == 0), looked_up, 0)
        return plan

    def observe(self, drafted: torch.Tensor, accepted: torch.Tensor, copied: torch.Tensor | None) -> None:
        """Takes in a round: `[batch]` bytes drafted and accepted, and which rows were looked up; None for no row.

        Each row ends with one rejection at most; rows without a draft say nothing.
        """
        if self.round == 0:
            return
        copied = torch.zeros_like(drafted, dtype=torch.bool) if copied is None else copied
        way = torch.where(copied, self.accepted.shape[1] - 1, self.used)[:, None]
        drew = (drafted > 0)[:, None]
        for evidence, new in ((self.accepted, accepted), (self.rejected, accepted < drafted)):
            before = evidence.gather(1, way)
            evidence.scatter_(1, way, torch.where(drew, MEMORY * before + new[:, None], before))

    def select(self, rows: torch.Tensor) -> None:
        """Keeps what is known of the rows with these indices."""
        if self.round:
            self.accepted, self.rejected = (e.index_select(0, rows) for e in (self.accepted, self.rejected))
