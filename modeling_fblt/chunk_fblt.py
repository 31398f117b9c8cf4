# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The chunk of new bytes that every network is called on, and the cutting of long rows into chunks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .cache_fblt import FBLTCache

# Cached rows are fed in chunks of so many bytes: attention over a long prompt stays linear, and buffers small.
CHUNK_BYTES = 512


@dataclass
class Chunk:
    """New bytes of each row, right-padded, and what the patcher found in them.

    Attributes:
        ids: `[batch, n]`.
        lengths: `[batch]`, how many of them are real.
        position: `[batch]`, position of the first.
        positions: `[batch, n]`, of all.
        with_next: `[batch, n + 1]`, the next byte's included.
        document_start: `[batch, n + 1]`, position at which each byte's document begins; the next byte's included.
        separator: `[batch, n]`, whether a byte ends its document.
        cache: the KV cache of the bytes before the chunk; None where rows begin with the chunk.
        column: `[batch, n]`, columns of the cache's byte buffers, or the first one where rows have the same; None
            without a cache.
        starts: `[batch, n + 1]`, whether a patch starts at each byte; the next byte included.
        patch_index: `[batch, n + 1]`, which patch of its row holds each byte; the next byte included.
        entropies: `[batch, n]` in nats, where the patcher ran.
        squares: by window, the mask of its bytes, for networks that share it.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    position: torch.Tensor
    positions: torch.Tensor
    document_start: torch.Tensor
    separator: torch.Tensor
    cache: "FBLTCache | None" = None
    column: torch.Tensor | int | None = None
    with_next: torch.Tensor | None = None
    starts: torch.Tensor | None = None
    patch_index: torch.Tensor | None = None
    entropies: torch.Tensor | None = None
    squares: dict = field(default_factory=dict)
    _completed: torch.Tensor | None = None

    def completed(self) -> torch.Tensor:
        """`[batch]`, how many patches the chunk completes."""
        if self._completed is None:
            self._completed = self.patch_index.gather(1, self.lengths[:, None])[:, 0] - self.patch_index[:, 0]
        return self._completed


def cut(
    ids: torch.Tensor, lengths: torch.Tensor, size: int = CHUNK_BYTES
) -> Iterator[tuple[slice, torch.Tensor, bool]]:
    """Cuts right-padded rows `[batch, n]`, of `lengths` `[batch]` bytes, into chunks of `size` columns.

    Yields:
        the chunk's columns; its bytes per row `[batch]`; whether it is the last one.
    """
    n = ids.shape[1]
    if 0 < n <= size:
        yield slice(0, n), lengths, True
        return
    for first in range(0, n, size):
        end = min(first + size, n)
        yield slice(first, end), (lengths - first).clamp(min=0, max=end - first), end == n
