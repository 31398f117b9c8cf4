# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Rows that have ended leave the batch, so that nothing is computed for them, and come back when all have."""

from typing import TYPE_CHECKING

import torch
from transformers.generation import LogitsProcessorList, logits_process

from .generation_state_fblt import GenerationState
from .processors_fblt import PURE, FBLTLastProcessor
from .utf8_fblt import FBLTUTF8LogitsProcessor

if TYPE_CHECKING:
    from .drafters_fblt import BlockDrafter, VerifiedDrafter

# Rows leave once one in so many of those present has ended. Each departure copies the caches, about what a step reads
# of them; with a quarter gone each time, all departures together copy a batch four times.
SHARE = 4

# Pure processors that go by a row's place in the batch. One of a user's own may, whatever it says of its prefix.
_BY_PLACE = {
    getattr(logits_process, name)
    for name in (
        "EncoderNoRepeatNGramLogitsProcessor",
        "EncoderRepetitionPenaltyLogitsProcessor",
        "PrefixConstrainedLogitsProcessor",
    )
}
BY_ROW = (PURE - _BY_PLACE) | {FBLTUTF8LogitsProcessor, FBLTLastProcessor}


def should_leave(ended: int, present: int) -> bool:
    """Whether the `ended` rows of a batch of `present` ones should leave it."""
    return 0 < ended < present and SHARE * ended >= present


def by_row(processors: LogitsProcessorList) -> bool:
    """Whether processors judge each row by itself, so that none needs to see the whole batch."""
    # A repetition penalty may hold the lengths of all rows' prompts.
    lengths = [getattr(processor, "prompt_ignore_length", None) for processor in processors]
    return all(type(p) in BY_ROW for p in processors) and not any(isinstance(n, torch.Tensor) for n in lengths)


class Compaction:
    """Which rows of a `generate` call are in its batch, and the state of those that left.

    Args:
        possible: whether rows may leave at all.
        state: of the call, at its beginning.
    """

    def __init__(self, possible: bool, state: GenerationState):
        self.possible = possible
        self.places = torch.arange(len(state.known), device=state.known.device)  # of the rows present, in the batch
        self.left: list[tuple[torch.Tensor, GenerationState]] = []

    def compact(
        self, state: GenerationState, drafter: "VerifiedDrafter | BlockDrafter", ended: torch.Tensor
    ) -> torch.Tensor:
        """Lets rows that have ended leave, if enough have; `[present]`, which of the rows left have ended."""
        present = len(ended)
        if not self.possible or not should_leave(present - state.running, present):
            return ended
        order = ended.long().argsort(stable=True)
        stay, leave = order[: state.running], order[state.running :]
        self.left.append((self.places[leave], state.part(leave)))
        self.places = self.places[stay]
        state.select(stay)
        drafter.select(stay)
        return ended[stay]

    def bring_back(self, state: GenerationState) -> None:
        """Puts the rows that left back where they were."""
        if self.left:
            places, others = zip(*self.left, strict=True)
            state.join(others, torch.cat([self.places, *places]).argsort())
