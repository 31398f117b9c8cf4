# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Embeddings of the hashed n-grams that end at a byte (BLT's rolling polynomial hash)."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

from .counting_fblt import descending

# BLT's hash primes, in its order: function f uses the f-th.
HASH_PRIMES = (
    1000000007,
    5915587277,
    1500450271,
    3267000013,
    5754853343,
    4093082899,
    9576890767,
    3628273133,
    2860486313,
    5463458053,
    3367900313,
)


def ngram_powers(sizes: list[int], functions: int) -> torch.Tensor:
    """What each byte of a window is multiplied by in the hash of each n-gram that ends with the window.

    The oldest id of an n-gram stands times prime^0, the next one times prime^1, and so on; bytes before it count
    nothing. int64 wraps around, as BLT's does.

    Args:
        sizes: n-gram lengths.
        functions: of BLT's hash functions, the first so many.

    Returns:
        `[max(sizes), functions * len(sizes)]`, the window's oldest byte first, functions outermost.
    """
    window, primes = max(sizes), torch.tensor(HASH_PRIMES[:functions], device="cpu")
    powers = torch.zeros(window, functions, len(sizes), dtype=torch.long, device="cpu")
    for i, size in enumerate(sizes):
        power = torch.ones_like(primes)
        for back in range(size - 1, -1, -1):
            powers[window - 1 - back, :, i] = power
            power = power * primes
    return powers.flatten(1)


def hash_ngrams(ids: torch.Tensor, reach: torch.Tensor, powers: torch.Tensor, rows: int) -> torch.Tensor:
    """Rows of the hash tables for the n-grams that end at each byte, each counted within its own table.

    Args:
        ids: `[batch, context + length]`; `context` ids before the first byte asked for, one less than the longest
            n-gram has.
        reach: `[batch, length, 1]`, how many bytes back an n-gram may look; what lies farther counts as id 0.
        powers: see [`ngram_powers`].
        rows: rows of each table.

    Returns:
        `[batch, length, functions * n-gram sizes]`.
    """
    window = len(powers)
    bytes_ = ids.unfold(1, window, 1)  # [batch, length, window], the oldest first
    # One sum over a window for all n-grams: sums that wrap around may be taken in any order.
    values = (bytes_.masked_fill(reach < descending(window, ids.device), 0)[..., None] * powers).sum(2)
    return values.remainder(rows)


class FBLTHashTable(nn.Embedding):
    """Tables laid end to end in one weight. A module of its own: where weights are offloaded, a module's are brought
    when it is called.
    """

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        """`[batch, length, n]` rows -> their sums `[batch, length, width]`."""
        return F.embedding_bag(index.flatten(0, 1), self.weight, mode="sum").view(*index.shape[:2], -1)


class FBLTHashEmbedding(nn.Module):
    """Sum of the embeddings of the hashed n-grams that end at a byte; all tables lie in one weight, functions outermost
    and sizes within.
    """

    def __init__(self, config):
        super().__init__()
        self.sizes, self.functions = config.hash_ngram_sizes, config.hash_functions
        self.rows = config.hash_vocab_size
        self.context = max(self.sizes) - 1
        self.table = FBLTHashTable(len(self.sizes) * config.hash_functions * self.rows, config.hidden_size)
        self.table.init_std = config.hidden_size**-0.5
        # Constants as buffers, so that no call makes them or copies them to the device: see [`ngram_powers`], and the
        # first row of each table.
        for name, values in self._constants().items():
            self.register_buffer(name, torch.empty_like(values, device=self.table.weight.device), persistent=False)
        self.fill_constants()

    def _constants(self) -> dict[str, torch.Tensor]:
        powers = ngram_powers(self.sizes, self.functions)
        return {"powers": powers, "first_rows": torch.arange(powers.shape[1], device="cpu") * self.rows}

    def fill_constants(self) -> None:
        """Sets the constants, which are not saved; loading asks for it again."""
        for name, values in self._constants().items():
            init.copy_(getattr(self, name), values)

    def forward(self, ids: torch.Tensor, reach: torch.Tensor) -> torch.Tensor:
        """Ids `[batch, context + length]` and `[batch, length]`, see [`hash_ngrams`] -> `[batch, length, width]`."""
        return self.table(hash_ngrams(ids, reach[..., None], self.powers, self.rows) + self.first_rows)
