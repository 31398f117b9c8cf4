# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""How queries meet keys: one small class per layout, all computing the same masked attention.

An attention module projects; a context decides which keys a query is offered and in which shape the product is
taken. Contexts hold no weights, so training, prefill and cached decoding share every layer.
"""

from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F

from .masks_fblt import block_to_block, block_to_clean, windowed_causal

if TYPE_CHECKING:
    from .cache_fblt import KeyValueStore
    from .layers_fblt import FBLTAttention

Attended = tuple[torch.Tensor, torch.Tensor | None]  # [batch, queries, heads, head_dim], weights


class AttentionContext(Protocol):
    """What an attention layer needs to know about its surroundings."""

    def attend(
        self, attention: "FBLTAttention", query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> Attended:
        """`query`, `key`, `value`: `[batch, heads, length, head_dim]`, already rotated."""
        ...

    def square(self, weights: torch.Tensor) -> torch.Tensor:
        """The weights that `attend` returned as `[batch, heads, queries, keys]`, for who asks to see them."""
        ...


def as_bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask (True: may attend) as scores to add; finite, so that rows that see nothing stay finite too."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)


def share_heads(x: torch.Tensor, groups: int, dim: int) -> torch.Tensor:
    """Repeats each head of keys or values, along `dim`, for the `groups` query heads that share it."""
    return x if groups == 1 else x.repeat_interleave(groups, dim)


class SquareContext:
    """Queries see the keys given with them, by one mask `[batch, queries, keys]`."""

    def __init__(self, mask: torch.Tensor):
        self.mask = mask[:, None]
        self.bias: torch.Tensor | None = None

    def attend(self, attention, query, key, value) -> Attended:
        if self.bias is None or self.bias.dtype != query.dtype:
            self.bias = as_bias(self.mask, query.dtype)
        return attention.product(query, key, value, self.bias)

    def square(self, weights: torch.Tensor) -> torch.Tensor:
        return weights


class CachedContext:
    """Stores the keys of a chunk, then attends as `inner` does.

    Args:
        stores: one key/value store per layer.
        writes: which of the given positions to store, and in which columns `[batch, length]`, in this order: a later
            one overwrites what padding of an earlier one left behind.
        end: a bound of the stored columns that are written.
        inner: the context that computes the attention.
        span: stored columns `[low, high)` that `inner` is offered as keys; None where nothing was stored before
            the chunk, so that the chunk's own keys are all there is.
    """

    def __init__(
        self,
        stores: "list[KeyValueStore]",
        writes: list[tuple[slice, torch.Tensor]],
        end: int,
        inner: AttentionContext,
        span: tuple[int, int] | None,
    ):
        self.stores, self.writes, self.end, self.inner, self.span = stores, writes, end, inner, span

    def attend(self, attention, query, key, value) -> Attended:
        store = self.stores[attention.layer_idx]
        for given, column in self.writes:
            store.write(key[:, :, given], value[:, :, given], column, self.end)
        if self.span is not None:
            key, value = store.read(*self.span)
        return self.inner.attend(attention, query, key, value)

    def square(self, weights: torch.Tensor) -> torch.Tensor:
        return self.inner.square(weights)


class TiledContext:
    """Windowed attention over a long uncached row, linear in its length.

    The row is cut into tiles as long as the window; a tile's queries see their own tile and the one before.

    Args:
        document_start: `[batch, length]`, position at which each query's document begins.
    """

    def __init__(self, document_start: torch.Tensor, window: int):
        self.window = window
        self.length = document_start.shape[1]
        self.tiles = -(-self.length // window)
        first = torch.arange(self.tiles, device=document_start.device)[:, None] * window
        query = first + torch.arange(window, device=first.device)  # [tiles, window]
        self.key_position = first - window + torch.arange(2 * window, device=first.device)  # [tiles, 2 * window]
        starts = F.pad(document_start, (0, self.tiles * window - self.length)).unflatten(1, (self.tiles, window))
        mask = windowed_causal(query[:, :, None], self.key_position[:, None, :], starts[..., None], window)
        self.by_tile = SquareContext(mask.flatten(0, 1))  # [batch * tiles, window, 2 * window]

    def tile(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, heads, length, head_dim] -> [batch, tiles, heads, window, head_dim]`."""
        x = F.pad(x, (0, 0, 0, self.tiles * self.window - self.length))
        return x.unflatten(2, (self.tiles, self.window)).transpose(1, 2)

    def with_previous(self, tiles: torch.Tensor) -> torch.Tensor:
        """Each tile behind the one before it: `[batch, tiles, heads, 2 * window, head_dim]`."""
        return torch.cat([F.pad(tiles, (0, 0, 0, 0, 0, 0, 1, 0))[:, :-1], tiles], dim=3)

    def attend(self, attention, query, key, value) -> Attended:
        return self.attend_tiles(
            attention, query, self.with_previous(self.tile(key)), self.with_previous(self.tile(value))
        )

    def attend_tiles(self, attention, query, keys, values) -> Attended:
        output, weights = self.by_tile.attend(
            attention, self.tile(query).flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1)
        )  # [batch * tiles, window, heads, head_dim]
        output = output.unflatten(0, (-1, self.tiles)).flatten(1, 2)
        return output[:, : self.length], weights

    def square(self, weights: torch.Tensor) -> torch.Tensor:
        # [batch * tiles, heads, window, 2 * window] -> [batch, heads, tiles * window, 2 * window]
        rows = weights.unflatten(0, (-1, self.tiles)).transpose(1, 2).flatten(2, 3)
        column = (self.key_position + self.window).repeat_interleave(self.window, dim=0)
        square = rows.new_zeros(*rows.shape[:3], (self.tiles + 1) * self.window)
        square = square.scatter(3, column.expand_as(rows), rows)
        return square[:, :, : self.length, self.window : self.window + self.length]


class BlockTrainingContext:
    """The decoder's training layout: clean bytes, then the positions of all blocks (paper section 3).

    Clean bytes attend as always. A block sees the clean window before its anchor and itself; blocks are grouped by
    the tile their anchor falls into, so that the cost stays linear in the length of the row.

    Args:
        document_start: `[batch, length]` of clean bytes.
        anchors: `[batch, blocks]`, sorted clean positions of the blocks' first bytes.
        present: `[batch, blocks, block_size]`, False for positions past the document's end.
    """

    def __init__(self, document_start: torch.Tensor, window: int, anchors: torch.Tensor, present: torch.Tensor):
        self.clean = TiledContext(document_start, window)
        batch, blocks, self.block_size = present.shape
        device = anchors.device
        tiles = self.clean.tiles
        tile_of_block = anchors // window
        first = torch.searchsorted(tile_of_block, torch.arange(tiles + 1, device=device).expand(batch, -1).contiguous())
        counts = first[:, 1:] - first[:, :-1]  # [batch, tiles]
        width = max(int(counts.max()), 1)
        lane = torch.arange(width, device=device)
        # Blocks of each tile side by side, padded to the fullest tile: [batch, tiles, width]
        self.grouped = (first[:, :-1, None] + lane).clamp(max=blocks - 1)
        filled = lane < counts[..., None]
        rank = torch.arange(blocks, device=device) - first.gather(1, tile_of_block)
        self.ungrouped = tile_of_block * width + rank  # [batch, blocks]

        anchor = anchors.gather(1, self.grouped.flatten(1)).view_as(self.grouped)
        document = document_start.gather(1, anchor.flatten(1)).view_as(anchor)
        offsets = torch.arange(self.block_size, device=device)
        position = anchor[..., None] + offsets  # [batch, tiles, width, block_size]
        to_clean = block_to_clean(
            position[..., None],
            self.clean.key_position[:, None, None, :],
            anchor[..., None, None],
            document[..., None, None],
            window,
        )
        own = present.gather(1, self.grouped.flatten(1)[..., None].expand(-1, -1, self.block_size))
        own = own.view_as(position) & filled[..., None]
        to_own = block_to_block(offsets.new_zeros(1), offsets.new_zeros(1), own[..., None, :]).expand(
            *own.shape, self.block_size
        )
        self.mask = torch.cat([to_clean, to_own], dim=-1)[:, :, None]  # [batch, tiles, 1, width, block_size, keys]
        self.bias: torch.Tensor | None = None

    def attend(self, attention, query, key, value) -> Attended:
        if self.bias is None or self.bias.dtype != query.dtype:
            self.bias = as_bias(self.mask, query.dtype)
        n = self.clean.length
        keys = self.clean.with_previous(self.clean.tile(key[:, :, :n]))  # [batch, tiles, heads, 2 * window, head_dim]
        values = self.clean.with_previous(self.clean.tile(value[:, :, :n]))
        clean, _ = self.clean.attend_tiles(attention, query[:, :, :n], keys, values)

        q, k, v = (self._group(x[:, :, n:]) for x in (query * attention.scaling, key, value))
        keys, values, k, v = (share_heads(x, attention.num_key_value_groups, dim=2) for x in (keys, values, k, v))
        shape = (self.grouped.shape[2], self.block_size)
        # One softmax over the clean window and the own block; only the products are taken apart.
        to_clean = torch.matmul(q.flatten(3, 4), keys.transpose(-1, -2)).unflatten(3, shape)
        to_own = torch.matmul(q, k.transpose(-1, -2))
        weights = torch.softmax(torch.cat([to_clean, to_own], dim=-1) + self.bias, dim=-1).to(v.dtype)
        from_clean, from_own = weights.split([keys.shape[3], self.block_size], dim=-1)
        output = torch.matmul(from_clean.flatten(3, 4), values).unflatten(3, shape) + torch.matmul(from_own, v)
        return torch.cat([clean, self._ungroup(output)], dim=1), None

    def _group(self, x: torch.Tensor) -> torch.Tensor:
        """`[batch, heads, blocks * block_size, head_dim] -> [batch, tiles, heads, width, block_size, head_dim]`."""
        batch, heads, _, head_dim = x.shape
        rows = x.transpose(1, 2).reshape(batch, -1, self.block_size * heads * head_dim)
        grouped = _take(rows, self.grouped.flatten(1))
        return grouped.view(*self.grouped.shape, self.block_size, heads, head_dim).permute(0, 1, 4, 2, 3, 5)

    def _ungroup(self, x: torch.Tensor) -> torch.Tensor:
        """Back to `[batch, blocks * block_size, heads, head_dim]`."""
        batch, tiles, heads, width, _, head_dim = x.shape
        rows = x.permute(0, 1, 3, 4, 2, 5).reshape(batch, tiles * width, -1)
        return _take(rows, self.ungrouped).view(batch, -1, heads, head_dim)


def _take(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`rows[b, index[b, i]]`: `[batch, rows, width]`, `[batch, length]` -> `[batch, length, width]`."""
    offset = torch.arange(index.shape[0], device=index.device)[:, None] * rows.shape[1]
    return F.embedding(index + offset, rows.flatten(0, 1))
