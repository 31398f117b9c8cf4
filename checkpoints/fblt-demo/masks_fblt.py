# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Every attention mask of the model, by name, from positions.

A mask is True where a query may attend. Rules take position tensors that broadcast, and work element by element. So
one rule serves a dense square, tiles of a long row, a cached chunk and a compiled kernel alike.
"""

import torch

from .counting_fblt import constant, counting

# Masks of so few queries are kept, over so many keys beyond the window.
_QUERIES, _MORE = 64, 256
_WIDEST = 1 << 16  # masks of wider windows are made for the keys that there are, and not kept


def causal(query: torch.Tensor, key: torch.Tensor, document_start: torch.Tensor) -> torch.Tensor:
    """A query sees itself and what came before it in its document (global transformer; positions are patches)."""
    return (key <= query) & (key >= document_start)


def windowed_causal(query: torch.Tensor, key: torch.Tensor, document_start: torch.Tensor, window: int) -> torch.Tensor:
    """As [`causal`], within the `window` positions that end at the query: keys in `(query - window, query]`."""
    return causal(query, key, document_start) & (key > query - window)


def within_document(key: torch.Tensor, document_start: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
    """What queries see of the keys that they see if all is one document, `seen`; None: of all keys."""
    inside = key >= document_start
    return inside if seen is None else inside & seen


def last_keys(queries: int, keys: int, window: int, device: torch.device) -> torch.Tensor | None:
    """[`windowed_causal`] for the last `queries` of `keys` consecutive positions, documents aside: `[queries, keys]`.

    None where every query sees every key.
    """
    if queries == 1 and keys <= window:
        return None

    def of(width: int) -> torch.Tensor:
        key = counting(width, device)
        query = key[width - queries :, None]
        return (key <= query) & (key > query - window)

    width = window + queries + _MORE
    if queries > _QUERIES or keys > width or window > _WIDEST:
        return of(keys)
    return constant(("last_keys", queries, window, device), lambda: of(width))[:, width - keys :]


def block_after(size: int, keys: int, window: int, device: torch.device) -> torch.Tensor:
    """What a block of `size` positions sees of `keys` consecutive ones, of which it is the last, documents aside.

    All of itself, and of the clean bytes before it those in the `window` that ends at each position: `[size, keys]`.
    """

    kept = window <= _WIDEST
    window = window if kept else min(window, keys)  # no key lies beyond that

    def make() -> torch.Tensor:
        key = counting(window + size, device)
        query = key[window:, None]
        return block_to_clean(query, key, key[window], key[0], window) | (key >= key[window])

    mask = constant(("block_after", size, window, device), make) if kept else make()
    return mask[:, window + size - keys :]


def block_to_clean(
    query: torch.Tensor, key: torch.Tensor, anchor: torch.Tensor, document_start: torch.Tensor, window: int
) -> torch.Tensor:
    """A block position sees clean bytes of its window and document that lie before the block's start `anchor`."""
    return windowed_causal(query, key, document_start, window) & (key < anchor)


def block_to_block(query_block: torch.Tensor, key_block: torch.Tensor, key_present: torch.Tensor) -> torch.Tensor:
    """A block position sees all present positions of its own block, in both directions, and of no other block."""
    return (query_block == key_block) & key_present


def training_layout(
    query: torch.Tensor,
    key: torch.Tensor,
    anchor: torch.Tensor,
    document_start: torch.Tensor,
    query_block: torch.Tensor,
    key_block: torch.Tensor,
    window: int,
) -> torch.Tensor:
    """The whole training mask as one rule, for positions that are all present.

    `query` and `key` are clean positions where `query_block` and `key_block` are -1, else positions of blocks.
    `anchor` is the query's: its block's start, or for a clean byte the position after it.
    """
    to_clean = block_to_clean(query, key, anchor, document_start, window) & (key_block < 0)
    return to_clean | block_to_block(query_block, key_block, key_block >= 0)
