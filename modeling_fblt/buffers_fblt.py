# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Tensors with an entry per row and position, of which the KV cache is made. They grow with what is written to them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .counting_fblt import counting
from .gather_fblt import take_columns


class Origin:
    """The first position that byte buffers hold, `[batch]`. All byte buffers of a cache slide together."""

    def __init__(self, batch_size: int, device: torch.device | str):
        self.first = torch.zeros(batch_size, dtype=torch.long, device=device)


class PositionBuffer:
    """A tensor with one entry per row and position, positions along `dim`; entries not yet written are zero.

    Args:
        dim: the dimension of positions.
        origin: of a buffer that slides; without one, column and position are the same.
    """

    def __init__(self, dim: int = 1, origin: Origin | None = None):
        self.dim, self.origin = dim, origin
        self.data: torch.Tensor | None = None
        self.writes = 0  # how often it was written to

    def column(self, position: torch.Tensor) -> torch.Tensor:
        """Columns that hold positions `[batch, ...]`."""
        if self.origin is None:
            return position
        return position - self.origin.first.view(-1, *[1] * (position.dim() - 1))

    def write(self, values: torch.Tensor, column: torch.Tensor | int, end: int) -> None:
        """Writes `values` (length along `dim`) to columns `[batch, length]`, all of them before `end`; or from one
        column on, the same in all rows.
        """
        self._reserve(values, end)
        self.writes += 1
        if self._must_stay(values):
            self.data = self.data.clone()
        if isinstance(column, int):
            self.data.narrow(self.dim, column, values.shape[self.dim]).copy_(values)
            return
        row = counting(len(column), column.device)[:, None]
        values = values.to(self.data.dtype)
        # Written by index: scattering takes a CPU many times as long in bfloat16.
        if self.dim == 1:
            self.data[row, column] = values
        else:
            self.data[row, :, column] = values.transpose(1, 2)

    def _must_stay(self, values: torch.Tensor) -> bool:
        """Whether what is held must not be written to: what was made in inference mode cannot be, outside of it, and
        what a backward pass will read must not. Without gradients, as in decoding, buffers are written in place.
        """
        if self.data.requires_grad or values.requires_grad:
            return True
        if torch.compiler.is_compiling():  # which cannot ask, nor goes on from what another mode made
            return False
        return self.data.is_inference() and not torch.is_inference_mode_enabled()

    def read(self, low: int, high: int) -> torch.Tensor:
        """Columns `low .. high - 1` of all rows."""
        return self.data.narrow(self.dim, low, high - low)

    def at(self, position: torch.Tensor) -> torch.Tensor:
        """One entry per row: `[batch, ...]` for `position` `[batch]` (buffers with positions in dimension 1)."""
        return self.data[counting(position.shape[0], position.device), self.column(position)]

    def gather(self, position: torch.Tensor) -> torch.Tensor:
        """`[batch, n, ...]` for `position` `[batch, n]` (buffers with positions in dimension 1)."""
        return take_columns(self.data, self.column(position))

    def select(self, rows: torch.Tensor) -> None:
        """Keeps, repeats or reorders rows."""
        if self.data is not None:
            self.data = self.data.index_select(0, rows.to(self.data.device))
            self.writes += 1

    def join(self, others: Sequence["PositionBuffer"]) -> None:
        """Adds the rows of other buffers; columns that a row does not have become zero."""
        if self.data is None:
            return
        parts = [buffer.data for buffer in (self, *others)]
        columns = max(part.shape[self.dim] for part in parts)
        behind = 2 * (self.data.dim() - 1 - self.dim)  # numbers of padding for the dimensions after that of positions
        self.data = torch.cat([F.pad(part, (*[0] * behind, 0, columns - part.shape[self.dim])) for part in parts])

    def slide(self, shift: torch.Tensor) -> None:
        """Drops the first `shift` `[batch]` columns of each row; what moves up at the end is stale."""
        if self.data is None:
            return
        columns = self.data.shape[self.dim]
        column = (shift[:, None] + counting(columns, shift.device)).clamp(max=columns - 1)
        shape = [1] * self.data.dim()
        shape[0], shape[self.dim] = column.shape
        self.data = self.data.gather(self.dim, column.view(shape).expand_as(self.data))

    def make_room(self, end: int) -> None:
        """Has room for columns before `end`, if anything was written yet."""
        if self.data is not None:
            self._reserve(self.data, end)

    def _reserve(self, values: torch.Tensor, end: int) -> None:
        have = 0 if self.data is None else self.data.shape[self.dim]
        if end <= have:
            return
        shape = list(values.shape)
        shape[self.dim] = max(end, 2 * have, 64)
        grown = values.new_zeros(shape)
        if self.data is not None:
            grown = grown.to(self.data.dtype)
            grown.narrow(self.dim, 0, have).copy_(self.data)
        self.data = grown


class KeyValueStore(PositionBuffer):
    """Keys and values of one attention layer in one buffer, so that one operator writes both:
    `[batch, heads of keys, then those of values, position, head_dim]`.
    """

    def __init__(self, origin: Origin | None = None):
        super().__init__(2, origin)

    def read(self, low: int, high: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values in columns `low .. high - 1`, each `[batch, heads, high - low, head_dim]`."""
        return super().read(low, high).chunk(2, dim=1)


class StoreColumns:
    """A fixed number of columns of a store, as a compiled network reads and writes them.

    Args:
        data: `[batch, heads of keys, then those of values, columns, head_dim]`, a part of the store's buffer.
    """

    def __init__(self, data: torch.Tensor):
        self.data = data

    def write(self, values: torch.Tensor, column: int, end: int) -> None:
        """Writes `values` from one column on, the same in all rows."""
        self.data.narrow(2, column, values.shape[2]).copy_(values)

    def read(self, low: int, high: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of all columns, each `[batch, heads, columns, head_dim]`."""
        return self.data.chunk(2, dim=1)
