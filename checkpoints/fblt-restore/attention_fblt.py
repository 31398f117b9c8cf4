# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Which keys a query is offered: one small class per layout, all computing the same masked attention.

An attention module projects; a context decides which keys a query is offered and in which shape the product is
taken. Contexts hold no weights, so training, prefill and cached decoding share every layer.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from .buffers_fblt import StoreColumns
from .counting_fblt import counting, scalar
from .gather_fblt import take_entries
from .masks_fblt import windowed_causal

if TYPE_CHECKING:
    from .buffers_fblt import KeyValueStore
    from .layers_fblt import FBLTAttention

FLEX_TILE = 128
SHORTEST_TILE = 32
Attended = tuple[torch.Tensor, torch.Tensor | None]  # [batch, queries, heads, head_dim], weights


class AttentionContext(Protocol):
    """What an attention layer needs to know about its surroundings."""

    def attend(
        self,
        attention: "FBLTAttention",
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        both: torch.Tensor | None = None,
    ) -> Attended:
        """`query`, `key`, `value`: `[batch, heads, length, head_dim]`, already rotated. `both`: keys and values as one
        tensor, `[batch, 2 * heads, length, head_dim]`, where they are parts of one.
        """
        ...

    def square(self, weights: torch.Tensor) -> torch.Tensor:
        """The weights that `attend` returned, as `[batch, heads, queries, keys]`, for whoever asks to see them."""
        ...


def as_bias(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask (True: may attend) as scores to add. They are finite, so that a query without any key gives no NaN."""
    nothing, forbidden = (scalar(value, dtype, mask.device) for value in (0.0, torch.finfo(dtype).min))
    return torch.where(mask, nothing, forbidden)


def share_heads(x: torch.Tensor, groups: int, dim: int) -> torch.Tensor:
    """Repeats each head of keys or values, along `dim`, for the `groups` query heads that share it."""
    return x if groups == 1 else x.repeat_interleave(groups, dim)


def gather_heads(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The heads of the positions that each group of queries is offered.

    Args:
        x: `[batch, heads, length, head_dim]`.
        index: `[groups, n]`, which positions: `batch index * length + position`.

    Returns:
        `[groups, heads, n, head_dim]`.
    """
    heads = x.shape[1]
    head = counting(heads, index.device)[:, None]
    return take_entries(
        x.transpose(1, 2).flatten(0, 2), index[:, None] * heads + head
    )  # as projected, bytes before heads: no copy


def uses_flex(config) -> bool:
    return config._attn_implementation == "flex_attention"


def flex_product(attention, query, key, value, block_mask: BlockMask) -> Attended:
    """Attention through FlexAttention. On CPUs it is a slow reference without a gradient: torch 2.13's compiled kernel
    does not build for short rows there.
    """
    stance = nullcontext() if query.device.type != "cpu" else torch.compiler.set_stance("force_eager")
    with stance:
        output, _ = attention.product(query, key, value, block_mask)
    return output, None


class SquareContext:
    """Queries see the keys given with them, by one mask `[batch, queries, keys]`."""

    def __init__(self, mask: torch.Tensor):
        self.mask = mask[:, None]
        self.bias: torch.Tensor | None = None

    @cached_property
    def block_mask(self) -> BlockMask:
        def rule(batch, head, query, key):
            return self.mask[batch, 0, query, key]

        batch, _, queries, keys = self.mask.shape
        return create_block_mask(rule, batch, None, queries, keys, device=self.mask.device)

    def attend(self, attention, query, key, value, both=None) -> Attended:
        if uses_flex(attention.config):
            return flex_product(attention, query, key, value, self.block_mask)
        if self.bias is None or self.bias.dtype != query.dtype:
            self.bias = as_bias(self.mask, query.dtype)
        return attention.product(query, key, value, self.bias)

    def square(self, weights: torch.Tensor) -> torch.Tensor:
        return weights


class CachedContext:
    """Stores the keys of a chunk, then attends as `inner` does.

    Args:
        stores: one key/value store per layer.
        writes: which of the given positions to store, and in which columns `[batch, length]`, or from which on. They
            are written in this order, so that a later one overwrites the padding of an earlier one.
        end: no column from here on is written to.
        inner: the context that computes the attention.
        span: stored columns `[low, high)` that `inner` is offered as keys; None where nothing was stored before, and
            the chunk's own keys are all there are.
    """

    def __init__(
        self,
        stores: "list[KeyValueStore] | list[StoreColumns]",
        writes: list[tuple[slice, torch.Tensor | int]],
        end: int,
        inner: AttentionContext,
        span: tuple[int, int] | None,
    ):
        self.stores, self.writes, self.end, self.inner, self.span = stores, writes, end, inner, span

    def attend(self, attention, query, key, value, both=None) -> Attended:
        store = self.stores[attention.layer_idx]
        both = torch.cat([key, value], dim=1) if both is None else both
        for given, column in self.writes:
            store.write(both[:, :, given], column, self.end)
        if self.span is not None:
            key, value = store.read(*self.span)
        return self.inner.attend(attention, query, key, value)

    def square(self, weights: torch.Tensor) -> torch.Tensor:
        return self.inner.square(weights)


def offered_whole(columns: list[torch.Tensor], column: int, mask: torch.Tensor) -> CachedContext:
    """A context that offers all of some stores' columns, one tensor per layer, and writes from one of them on.

    Args:
        mask: `[batch, queries, keys]`; what hides columns that hold nothing, too.
    """
    square = SquareContext(mask)
    square.bias = as_bias(square.mask, columns[0].dtype)  # here, so that a compiled network finds it made
    width = mask.shape[-1]
    stores = [StoreColumns(data) for data in columns]
    return CachedContext(stores, [(slice(None), column)], width, square, (0, width))


class FlexContext:
    """A mask for FlexAttention, which computes it on the fly and skips tiles that nothing in them may attend to.

    Only the table of tiles is stored, one entry for `FLEX_TILE` x `FLEX_TILE` scores.

    Args:
        rule: `(batch, head, query, key) -> bool`, as FlexAttention's `mask_mod`.
        ranges: pairs of first and last key, each `[batch, queries]`, that together hold all keys that a query may see;
            a range whose first lies after its last is empty.
        length: keys.
    """

    def __init__(self, rule: Callable, ranges: list[tuple[torch.Tensor, torch.Tensor]], length: int):
        self.rule, self.ranges, self.length = rule, ranges, length
        batch, queries = ranges[0][0].shape
        tiles = -(-queries // FLEX_TILE)
        rest = (0, tiles * FLEX_TILE - queries)
        tile = counting(-(-length // FLEX_TILE), ranges[0][0].device)
        seen = torch.zeros(batch, tiles, len(tile), dtype=torch.bool, device=tile.device)
        for first, last in ranges:
            empty = first > last
            first = F.pad(first.masked_fill(empty, length), rest, value=length).unflatten(1, (tiles, FLEX_TILE)).amin(2)
            last = F.pad(last.masked_fill(empty, -1), rest, value=-1).unflatten(1, (tiles, FLEX_TILE)).amax(2)
            low, high = (x.div(FLEX_TILE, rounding_mode="floor")[..., None] for x in (first, last))
            seen |= (tile >= low) & (tile <= high)
        order = seen.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
        self.block_mask = BlockMask.from_kv_blocks(
            seen.sum(-1, dtype=torch.int32)[:, None],
            order[:, None].to(torch.int32),
            BLOCK_SIZE=FLEX_TILE,
            mask_mod=rule,
            seq_lengths=(queries, length),
        )

    def of_queries(self, asked: torch.Tensor) -> "FlexContext":
        """The same keys for the queries `asked` `[batch, queries]` alone."""

        def rule(batch, head, query, key):
            return self.rule(batch, head, asked[batch, query], key)

        ranges = [(first.gather(1, asked), last.gather(1, asked)) for first, last in self.ranges]
        return FlexContext(rule, ranges, self.length)

    def attend(self, attention, query, key, value, both=None) -> Attended:
        return flex_product(attention, query, key, value, self.block_mask)


class TiledContext:
    """Windowed attention over a long uncached row, linear in its length.

    The row is cut into tiles. A tile's queries see their own tile, and as many before it as the window reaches. A tile
    is a quarter of the window, which wastes little; where that is too short for fast matrix products, it is longer.
    FlexAttention has tiles of its own.

    Args:
        document_start: `[batch, length]`, position at which each query's document begins.
    """

    def __init__(self, document_start: torch.Tensor, window: int):
        self.document_start = document_start
        self.window = window
        self.length = document_start.shape[1]
        self.width = max(window // 4, min(window, SHORTEST_TILE))
        self.tiles = -(-self.length // self.width)
        self.back = -(-window // self.width)  # tiles before its own that a query may see
        first = counting(self.tiles, document_start.device)[:, None] * self.width
        self.query_position = first + counting(self.width, first.device)  # [tiles, width]
        keys = (self.back + 1) * self.width
        self.key_position = first - self.back * self.width + counting(keys, first.device)  # [tiles, keys]

    @cached_property
    def by_tile(self) -> SquareContext:
        """The mask of each tile: `[batch * tiles]` of them, with `width` queries and `(back + 1) * width` keys."""
        starts = F.pad(self.document_start, (0, self.tiles * self.width - self.length))
        starts = starts.unflatten(1, (self.tiles, self.width))
        query, key = self.query_position[:, :, None], self.key_position[:, None, :]
        return SquareContext(windowed_causal(query, key, starts[..., None], self.window).flatten(0, 1))

    @cached_property
    def flex(self) -> FlexContext:
        def rule(batch, head, query, key):
            return windowed_causal(query, key, self.document_start[batch, query], self.window)

        query = counting(self.length, self.document_start.device)
        low = torch.maximum(self.document_start, query - self.window + 1)
        return FlexContext(rule, [(low, query.expand_as(low))], self.length)

    def flat_index(self, positions: torch.Tensor) -> torch.Tensor:
        """Positions `[tiles, n]` of every row -> index for [`gather_heads`], `[batch * tiles, n]`.

        Positions outside of the row give some index inside it: masks hide these.
        """
        row = counting(self.document_start.shape[0], positions.device) * self.length
        return (row[:, None, None] + positions.clamp(0, self.length - 1)).flatten(0, 1)

    @cached_property
    def query_index(self) -> torch.Tensor:
        return self.flat_index(self.query_position)

    @cached_property
    def key_index(self) -> torch.Tensor:
        return self.flat_index(self.key_position)

    def attend(self, attention, query, key, value, both=None) -> Attended:
        if uses_flex(attention.config):
            return self.flex.attend(attention, query, key, value)
        query = gather_heads(query, self.query_index)
        key, value = gather_heads(key, self.key_index), gather_heads(value, self.key_index)
        output, weights = self.by_tile.attend(attention, query, key, value)  # [batch * tiles, width, heads, head_dim]
        output = output.unflatten(0, (-1, self.tiles)).flatten(1, 2)
        return output[:, : self.length], weights

    def square(self, weights: torch.Tensor) -> torch.Tensor:
        # [batch * tiles, heads, width, keys] -> [batch, heads, tiles * width, keys]
        rows = weights.unflatten(0, (-1, self.tiles)).transpose(1, 2).flatten(2, 3)
        before = self.back * self.width
        column = (self.key_position + before).repeat_interleave(self.width, dim=0)
        square = rows.new_zeros(*rows.shape[:3], before + self.tiles * self.width)
        square = square.scatter(3, column.expand_as(rows), rows)
        return square[:, :, : self.length, before : before + self.length]
