# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The chunk of new bytes that every network is called on, and the cutting of long rows into chunks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .cache_fblt import FBLTCache

# Cached rows are fed in pieces of so many bytes: attention over a long prompt stays linear, and buffers small.
CHUNK_BYTES = 512


def chunks(
    ids: torch.Tensor, lengths: torch.Tensor, size: int = CHUNK_BYTES
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]]:
    """Right-padded rows `[batch, n]` in pieces of `size` columns: each piece's ids, its bytes per row `[batch]`,
    which rows end in it or before `[batch]`, and whether it is the last.
    """
    n = ids.shape[1]
    for first in range(0, n, size):
        part = ids[:, first : first + size]
        left = lengths - first
        yield part, left.clamp(min=0, max=part.shape[1]), left <= part.shape[1], first + size >= n


@dataclass
class Chunk:
    """New bytes of each row, right-padded, and what the patcher found in them.

    Attributes:
        ids: `[batch, n]`.
        lengths: `[batch]`, how many of them are real.
        position: `[batch]`, row position of the first.
        positions: `[batch, n]`.
        document_start: `[batch, n + 1]`, where each position's document begins.
        column: `[batch, n]`, columns of the cache's byte buffers; None without a cache.
        cache: what the bytes before the chunk left behind, None for a row from its beginning.
        starts: `[batch, n + 1]`, patch starts; the next position included.
        patch_index: `[batch, n + 1]`, index in the row of the patch that holds each position.
        entropies: `[batch, n]` in nats, where the patcher ran.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    position: torch.Tensor
    positions: torch.Tensor
    document_start: torch.Tensor
    cache: "FBLTCache | None" = None
    column: torch.Tensor | None = None
    starts: torch.Tensor | None = None
    patch_index: torch.Tensor | None = None
    entropies: torch.Tensor | None = None

    def completed(self) -> torch.Tensor:
        """`[batch]`, how many patches the chunk completes."""
        return self.patch_index.gather(1, self.lengths[:, None])[:, 0] - self.patch_index[:, 0]
