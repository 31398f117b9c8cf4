# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Padding, on whichever side it stands: taken out of a batch on entry and put back on exit."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .compatibility_fblt import is_exporting
from .gather_fblt import take_columns


def check_shapes(input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> None:
    """Raises a ValueError where there is no row or no column, or where the mask has another shape."""
    if input_ids.dim() != 2 or input_ids.numel() == 0:
        raise ValueError(
            f"`input_ids` has shape {tuple(input_ids.shape)}: give [batch, n] with at least one row and one byte; "
            "a text without bytes is `<s>` (id 1) alone."
        )
    batch, n = input_ids.shape
    shape = None if attention_mask is None else tuple(attention_mask.shape)
    if shape is not None and (len(shape) != 2 or shape[0] != batch or shape[1] < n):
        raise ValueError(
            f"`attention_mask` has shape {shape}: give [batch, n], or all columns so far, for `input_ids` of shape "
            f"{(batch, n)}."
        )


@dataclass
class RightPadded:
    """A batch of input columns whose padding has been moved to the right.

    Attributes:
        ids: `[batch, n]`, each row's bytes first.
        lengths: `[batch]`, bytes per row.
        columns: `[batch, n]`, the input column that each byte came from; None without padding.
        positions: `[batch, n]`, the other way round: where in `ids` each input column went; None without padding.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    columns: torch.Tensor | None = None
    positions: torch.Tensor | None = None

    @classmethod
    def of(cls, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> "RightPadded":
        """Moves the padding of `input_ids` `[batch, n]`; the mask's last `n` columns are 0 on padding.

        Raises:
            ValueError: see [`check_shapes`].
        """
        check_shapes(input_ids, attention_mask)
        batch, n = input_ids.shape
        if attention_mask is None:
            return cls(input_ids, torch.full((batch,), n, dtype=torch.long, device=input_ids.device))
        real = attention_mask[:, -n:].bool()
        columns = (~real).to(torch.uint8).argsort(dim=1, stable=True)
        return cls(input_ids.gather(1, columns), real.sum(1), columns, columns.argsort(dim=1))

    def left_padded(self) -> torch.Tensor:
        """The ids `[batch, n]` with all padding on the left, as decoding shows them to processors and criteria."""
        if self.columns is None:
            return self.ids
        n = self.ids.shape[1]
        column = torch.arange(n, device=self.ids.device) + self.lengths[:, None]
        return self.ids.gather(1, column % n)

    def left_mask(self) -> torch.Tensor:
        """The attention mask that goes with [`left_padded`], `[batch, n]`."""
        n = self.ids.shape[1]
        return (torch.arange(n, device=self.ids.device) >= n - self.lengths[:, None]).long()

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """Moves the padding of `values` `[batch, n, ...]` to the right, as that of the ids was."""
        return values if self.columns is None else take_columns(values, self.columns)

    def restore(self, values: torch.Tensor) -> torch.Tensor:
        """Puts the padding of `values` `[batch, n, ...]` back to where the input has it; it becomes zero."""
        if self.positions is None:
            return values
        padding = self.positions >= self.lengths[:, None]
        values = take_columns(values, self.positions)
        return values.masked_fill(padding.view(*padding.shape, *[1] * (values.dim() - 2)), 0)

    def take_starts(self, starts: torch.Tensor, begins: bool) -> torch.Tensor:
        """As [`take`], for patch starts `[batch, n + 1]`, whose last entry is that of the next byte.

        Args:
            begins: whether rows begin with these bytes.

        Raises:
            TypeError: they are no tensor.
            ValueError: they are no booleans of this shape, or a row does not begin with two starts.
        """
        moved = self._moved_starts(starts)
        unseen = moved.is_meta or is_exporting()
        if begins and not unseen and not bool((moved[:, :2].all(1) | (self.lengths == 0)).all()):
            raise ValueError(
                "`patch_starts` has rows that do not begin with True, True: the first two bytes of a row start "
                "patches, as the first has no latent to read before it is a patch of its own."
            )
        return moved

    def _moved_starts(self, starts: torch.Tensor) -> torch.Tensor:
        batch, n = self.ids.shape
        if not isinstance(starts, torch.Tensor):
            raise TypeError(f"`patch_starts` is a {type(starts).__name__}: give booleans of shape {(batch, n + 1)}.")
        if starts.dtype != torch.bool or tuple(starts.shape) != (batch, n + 1):
            raise ValueError(
                f"`patch_starts` has dtype {starts.dtype} and shape {tuple(starts.shape)}: give booleans of shape "
                f"{(batch, n + 1)}, one column per byte and one for the next position."
            )
        if self.columns is None:
            return starts
        moved = F.pad(self.take(starts[:, :-1]), (0, 1))
        return moved.scatter(1, self.lengths[:, None], starts.gather(1, self._next_column()))

    def restore_starts(self, starts: torch.Tensor) -> torch.Tensor:
        """As [`restore`], for patch starts `[batch, n + 1]`, whose last entry is that of the next byte."""
        if self.columns is None:
            return starts
        upcoming = starts.gather(1, self.lengths[:, None])
        restored = F.pad(self.restore(starts[:, :-1]), (0, 1))
        return restored.scatter(1, self._next_column(), upcoming)

    def _next_column(self) -> torch.Tensor:
        """The column after each row's last byte, `[batch, 1]`."""
        last = self.columns.gather(1, (self.lengths - 1).clamp(min=0)[:, None])
        return torch.where(self.lengths[:, None] > 0, last + 1, 0)
