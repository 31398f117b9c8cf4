# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Padding, on whichever side it stands: taken out of a batch on entry and put back on exit."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .cache_fblt import FBLTCache


@dataclass
class RightPadded:
    """Input columns with their padding, wherever it stands, moved to the right.

    Attributes:
        ids: `[batch, n]`, each row's bytes first.
        lengths: `[batch]`, bytes per row.
        order: `[batch, n]`, the column each place came from; None without padding.
        place: `[batch, n]`, the place each column went to.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    order: torch.Tensor | None = None
    place: torch.Tensor | None = None

    @classmethod
    def of(cls, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> "RightPadded":
        """Rows of `input_ids` `[batch, n]`; the mask's last `n` columns say what is padding (0)."""
        batch, n = input_ids.shape
        if attention_mask is None:
            return cls(input_ids, torch.full((batch,), n, dtype=torch.long, device=input_ids.device))
        if attention_mask.dim() != 2 or attention_mask.shape[0] != batch or attention_mask.shape[1] < n:
            raise ValueError(
                f"`attention_mask` has shape {tuple(attention_mask.shape)}: give [batch, n], or all columns so far, "
                f"for `input_ids` of shape {tuple(input_ids.shape)}."
            )
        real = attention_mask[:, -n:].bool() if n else attention_mask[:, :0].bool()
        order = (~real).to(torch.uint8).argsort(dim=1, stable=True)
        return cls(input_ids.gather(1, order), real.sum(1), order, order.argsort(dim=1))

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """Columns to places, `[batch, n, ...]`."""
        return values if self.order is None else gather_columns(values, self.order)

    def restore(self, values: torch.Tensor) -> torch.Tensor:
        """Places to columns, `[batch, n, ...]`; zero on padding."""
        if self.place is None:
            return values
        padding = self.place >= self.lengths[:, None]
        return gather_columns(values, self.place).masked_fill(
            padding.view(*padding.shape, *[1] * (values.dim() - 2)), 0
        )

    def key_columns(
        self, attention_mask: torch.Tensor | None, cache: "FBLTCache | None", window: int
    ) -> torch.Tensor | None:
        """Where each column of the text so far stands among the keys that windowed attention is offered.

        Args:
            attention_mask: as given with the columns; where it leaves out what the cache holds, padding of that is
                taken to be on the left.
            cache: before these rows extend it.

        Returns:
            `[batch, columns]`, -1 for padding and bytes that no window reaches; None where columns are keys.
        """
        n = self.ids.shape[1]
        columns = torch.arange(n, device=self.ids.device)
        new = (columns if self.place is None else self.place) < self.lengths[:, None]
        if cache is None or cache.max_column == 0:
            if self.place is None or bool((self.place == columns).all()):
                return None
            return torch.where(new, self.place, -1)
        if attention_mask is not None and attention_mask.shape[1] > n:
            real = attention_mask.bool()
        else:
            held = torch.arange(cache.columns, device=new.device) >= cache.columns - cache.lengths[:, None]
            real = torch.cat([held, new], dim=1)
        span = cache.span(window, n)
        key = real.long().cumsum(dim=1) - 1 - cache.positions(span)[:, :1]
        return torch.where(real & (key >= 0) & (key < span[1] - span[0]), key, -1)

    def restore_weights(self, weights: torch.Tensor, key_columns: torch.Tensor | None) -> torch.Tensor:
        """Attention weights by place and key to weights by column, see [`key_columns`]: `[batch, heads, n, columns]`.

        What padding attends to is without meaning.
        """
        if key_columns is None:
            return weights  # as it is, not a copy: gradients reach it
        if self.place is not None:
            weights = weights.gather(2, self.place[:, None, :, None].expand_as(weights))
        index = key_columns.clamp(min=0)[:, None, None].expand(*weights.shape[:3], -1)
        return weights.gather(3, index).masked_fill((key_columns < 0)[:, None, None], 0)

    def _next_column(self) -> torch.Tensor:
        """Column of the position after each row's last byte, `[batch, 1]`."""
        if self.order is None:
            return self.lengths[:, None]
        last = self.order.gather(1, (self.lengths - 1).clamp(min=0)[:, None])
        return torch.where(self.lengths[:, None] > 0, last + 1, 0)

    def restore_starts(self, starts: torch.Tensor) -> torch.Tensor:
        """Starts by place to starts by column, `[batch, n + 1]`; False on padding."""
        if self.order is None:
            return starts
        upcoming = starts.gather(1, self.lengths[:, None])
        columns = torch.nn.functional.pad(self.restore(starts[:, :-1]), (0, 1))
        return columns.scatter(1, self._next_column(), upcoming)

    def take_starts(self, starts: torch.Tensor) -> torch.Tensor:
        """Starts by column to starts by place, `[batch, n + 1]`."""
        batch, n = self.ids.shape
        if starts.dtype != torch.bool or tuple(starts.shape) != (batch, n + 1):
            raise ValueError(
                f"`patch_starts` has dtype {starts.dtype} and shape {tuple(starts.shape)}: give booleans of shape "
                f"{(batch, n + 1)}, one column per byte and one for the next position."
            )
        if self.order is None:
            return starts
        places = torch.nn.functional.pad(self.take(starts[:, :-1]), (0, 1))
        return places.scatter(1, self.lengths[:, None], starts.gather(1, self._next_column()))


def gather_columns(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values[b, index[b, i]]`: `[batch, columns, ...]`, `[batch, n]` -> `[batch, n, ...]`."""
    trailing = values.shape[2:]
    return values.gather(1, index.view(*index.shape, *[1] * len(trailing)).expand(*index.shape, *trailing))
