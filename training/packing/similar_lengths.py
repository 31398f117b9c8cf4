"""Batches of rows of similar length, so that little of a batch is padding."""

from collections.abc import Iterator

import numpy as np
import pyarrow.compute
from datasets import Dataset
from torch.utils.data import Sampler

BATCHES_SORTED_TOGETHER = 64


class SimilarLengths(Sampler[int]):
    """Rows in an order drawn for each epoch in which the rows of a step have similar lengths.

    Random rows of some steps are sorted by length and cut into steps, whose order is random again. The order is a
    function of seed and epoch alone, so a resumed run goes on with the row that follows.

    Args:
        lengths: `[rows]`, of each row.
        step_size: rows of a step, of all its processes together.
        seed: of the order.
        stride: what a row's index grows by in each epoch: the number of rows, for `DamagedLines`.
    """

    def __init__(self, lengths: np.ndarray, step_size: int, seed: int, stride: int = 0):
        self.lengths, self.step_size, self.seed, self.stride, self.epoch = lengths, step_size, seed, stride, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(len(self.lengths))
        together = self.step_size * BATCHES_SORTED_TOGETHER
        steps = []
        for first in range(0, len(order), together):
            part = order[first : first + together]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            steps += [part[start : start + self.step_size] for start in range(0, len(part), self.step_size)]
        short = [step for step in steps if len(step) < self.step_size]  # the last one: it must stay the last
        steps = [step for step in steps if len(step) == self.step_size]
        for step in [steps[place] for place in generator.permutation(len(steps))] + short:
            yield from (step + self.epoch * self.stride).tolist()


def row_lengths(rows: Dataset) -> np.ndarray:
    """Ids of each row `[rows]`."""
    return pyarrow.compute.list_value_length(rows.with_format("arrow")["input_ids"][:]).to_numpy()
