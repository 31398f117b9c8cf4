# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What `output_hidden_states` and `output_attentions` ask for: collected while the decoder runs, by input column."""

import torch

from .cache_fblt import FBLTCache
from .padding_fblt import RightPadded


class DecoderRecorder:
    """Collects the decoder's states and attention weights, in the columns of the input.

    Args:
        rows: the input.
        attention_mask: as given with it. Where it covers these columns alone, padding of what the cache holds is taken
            to be on the left.
        cache: the KV cache, None without one.
        window: the decoder's.
    """

    def __init__(self, rows: RightPadded, attention_mask: torch.Tensor | None, cache: FBLTCache | None, window: int):
        self.rows, self.attention_mask, self.cache, self.window = rows, attention_mask, cache, window
        self.key_columns: torch.Tensor | None = None
        self.hidden_states: list[torch.Tensor] = []
        self.attentions: list[torch.Tensor] = []

    def see_states(self, hidden: torch.Tensor) -> torch.Tensor:
        """Records states `[batch, n, width]` and returns what to go on with: so gradients reach what was recorded."""
        columns = self.rows.restore(hidden)
        self.hidden_states.append(columns)
        return self.rows.take(columns)

    def see_weights(self, weights: torch.Tensor) -> None:
        """Records weights `[batch, heads, n, keys]` as `[batch, heads, n, columns]`."""
        if not self.attentions:  # not earlier: the cache may slide before the networks run
            self.key_columns = self._key_columns()
        self.attentions.append(self._by_column(weights))

    def _key_columns(self) -> torch.Tensor | None:
        """Which of the decoder's keys belongs to each column of the text so far.

        Returns:
            `[batch, columns]`, -1 for padding and for bytes outside of all windows; None where columns are keys.
        """
        rows, cache, mask = self.rows, self.cache, self.attention_mask
        n = rows.ids.shape[1]
        columns = torch.arange(n, device=rows.ids.device)
        new = (columns if rows.positions is None else rows.positions) < rows.lengths[:, None]
        if cache is None or cache.max_column == 0:
            if rows.positions is None or bool((rows.positions == columns).all()):
                return None
            return torch.where(new, rows.positions, -1)
        if mask is not None and mask.shape[1] > n:
            real = mask.bool()
        else:
            held = torch.arange(cache.columns, device=new.device) >= cache.columns - cache.lengths[:, None]
            real = torch.cat([held, new], dim=1)
        span = cache.span(self.window, n)
        key = real.long().cumsum(dim=1) - 1 - cache.positions(span)[:, :1]
        return torch.where(real & (key >= 0) & (key < span[1] - span[0]), key, -1)

    def _by_column(self, weights: torch.Tensor) -> torch.Tensor:
        """Queries and keys moved to their columns. What padding attends to is without meaning."""
        if self.key_columns is None:
            return weights  # as it is, not a copy: gradients reach it
        if self.rows.positions is not None:
            weights = weights.gather(2, self.rows.positions[:, None, :, None].expand_as(weights))
        index = self.key_columns.clamp(min=0)[:, None, None].expand(*weights.shape[:3], -1)
        return weights.gather(3, index).masked_fill((self.key_columns < 0)[:, None, None], 0)
