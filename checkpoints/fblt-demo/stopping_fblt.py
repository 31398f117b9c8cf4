# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Where rows stop. Stop ids and lengths are found within a round; all other criteria are offered byte after byte.

Stop strings, and criteria of a user's own, expect what plain decoding shows them: the whole batch, one byte longer at
each call. Here rows write many bytes in a round, each its own number. So criteria are called for one byte after the
other, each as soon as the slowest row has it. What a row wrote beyond its stop is taken back.
"""

import torch
from transformers.generation import StoppingCriteriaList
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria

from .counting_fblt import counting, scalar
from .generation_state_fblt import GenerationState

# A row that is so many bytes ahead of what was offered waits for the others. A cache can take back more than that.
LEAD = 64


def cut_at_stop(
    new: torch.Tensor, length: torch.Tensor, eos: torch.Tensor | None, room: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many of the first `length` new bytes `[batch, r]` remain before a stop, and which rows stop there.

    A stop id is kept as the row's last byte; `room` `[batch]` is how many bytes may still be written.
    """
    stopped = length >= room
    length = torch.minimum(length, room)
    if eos is not None:
        r = new.shape[1]
        until = counting(r + 1, new.device, start=1)
        until = torch.where(torch.isin(new, eos.to(new.device)), until, scalar(r + 1, torch.long, new.device)).amin(1)
        stopped = stopped | (until <= length)
        length = torch.minimum(length, until)
    return length, stopped


class Criteria:
    """The stopping criteria of a call, sorted by how they are asked.

    Attributes:
        eos: stop ids, or None.
        offered: new bytes per row that criteria have been offered.
    """

    def __init__(self, criteria: StoppingCriteriaList):
        self.eos = next((c.eos_token_id for c in criteria if isinstance(c, EosTokenCriteria)), None)
        self.clocks = [c for c in criteria if isinstance(c, MaxTimeCriteria)]
        known = (EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria)
        self.others = StoppingCriteriaList([c for c in criteria if not isinstance(c, known)])
        self.offered = 0

    def out_of_time(self, state: GenerationState) -> bool:
        return any(bool(c(state.text, None).any()) for c in self.clocks)

    def active(self, state: GenerationState, ended: torch.Tensor) -> torch.Tensor:
        """`[batch]`, rows that go on: those that have not ended and are not too far ahead."""
        return ~ended & (state.written < self.offered + LEAD) if self.others else ~ended

    def offer(self, state: GenerationState, ended: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Offers the bytes that all rows have.

        Args:
            ended: `[batch]`, rows that write no more.

        Returns:
            New bytes `[batch]` and `ended` after the verdicts: a row that is stopped has what it had then.
        """
        written = state.written
        while self.others:
            judged = ended & (written <= self.offered)
            if bool(judged.all()) or not bool((judged | (written > self.offered)).all()):
                break
            self.offered += 1
            verdict = self.others(state.padded(self.offered, written), None).to(written.device)
            stopped = verdict & ~judged
            written = torch.where(stopped, self.offered, written)
            ended = ended | stopped
        return written, ended

    def kept(self, state: GenerationState) -> torch.Tensor:
        """New bytes `[batch]` that all criteria have seen: not all of them where the clock stops the call."""
        return state.written.clamp(max=self.offered) if self.others else state.written
