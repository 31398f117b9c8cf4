# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""How long a draft should be: recent acceptance weighed against the cost of one more drafted byte."""

import torch

# After each round, earlier rounds count this much less: acceptance changes with the text.
MEMORY = 0.9


def best_length(acceptance: float, byte_cost: float, longest: int) -> int:
    """The draft length `r` in `1 .. longest` that writes most bytes per unit of cost.

    If each drafted byte is accepted with probability `a`, a round writes `1 + a + ... + a^r` bytes, and costs
    `1 + r * byte_cost`, a round without a draft being 1.
    """
    written, best, length = 1.0, 0.0, 1
    for r in range(1, longest + 1):
        written += acceptance**r
        if written / (1 + r * byte_cost) > best:
            best, length = written / (1 + r * byte_cost), r
    return length


class DraftLength:
    """Chooses each round's draft length by [`best_length`].

    It looks at earlier rounds only, never at the bytes being drafted, so sampling stays exact.

    Args:
        byte_cost: of one more drafted byte, a round without a draft being 1.
        longest: the longest draft.
    """

    def __init__(self, byte_cost: float, longest: int):
        self.byte_cost, self.longest = byte_cost, longest
        self.accepted, self.rejected = 3.0, 1.0  # a mild guess, soon forgotten

    def length(self) -> int:
        return best_length(self.accepted / (self.accepted + self.rejected), self.byte_cost, self.longest)

    def observe(self, drafted: torch.Tensor, accepted: torch.Tensor, active: torch.Tensor) -> None:
        """Takes in a round: `[batch]` bytes drafted and accepted, and which rows took part; waits for the device.

        Each row ends with one rejection at most.
        """
        rejected = (active & (accepted < drafted)).sum()
        rows, accepted, rejected = torch.stack([active.sum(), (accepted * active).sum(), rejected]).tolist()
        if rows:
            self.accepted = MEMORY * self.accepted + accepted / rows
            self.rejected = MEMORY * self.rejected + rejected / rows
