# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The steps that every forward pass and every decoding is made of: feed bytes, draft a block, draft bytes.

Feeding extends the KV cache. Drafting reads it, and writes keys beyond the rows' lengths only, where the next feed
overwrites them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from .attention_fblt import CachedContext, SquareContext
from .cache_fblt import FBLTCache
from .chunk_fblt import CHUNK_BYTES, Chunk, cut
from .compiled_networks_fblt import network_call
from .counting_fblt import counting
from .masks_fblt import block_after, block_to_clean, last_keys, windowed_causal, within_document
from .recorder_fblt import DecoderRecorder

if TYPE_CHECKING:
    from .base_model_fblt import FBLTModel


@dataclass
class Block:
    """A block of bytes to fill in.

    Attributes:
        ids: `[batch, block_size]`, `<mask>` where unknown.
        anchor: `[batch]`, position of its first byte: right after the fed bytes, or at one of the last of them. Fed
            bytes from there on stand in the block as known bytes.
    """

    ids: torch.Tensor
    anchor: torch.Tensor


@dataclass
class Fed:
    """What feeding bytes gave.

    Attributes:
        hidden: `[batch, n, width]`, decoder states of the bytes.
        completed: `[batch]`, patches they completed.
        block, block_hidden: the block drafted in the same call, if any; `[batch, block_size, width]`.
    """

    hidden: torch.Tensor
    completed: torch.Tensor
    block: Block | None = None
    block_hidden: torch.Tensor | None = None


def feed(
    model: "FBLTModel",
    ids: torch.Tensor,
    lengths: torch.Tensor,
    cache: FBLTCache | None,
    patch_starts: torch.Tensor | None = None,
    recorder: DecoderRecorder | None = None,
    place_block: Callable[[torch.Tensor, Callable[[], torch.Tensor]], Block] | None = None,
    close_patch: bool = False,
    document_ends: torch.Tensor | None = None,
) -> Fed:
    """Runs new bytes through patcher, encoder, global transformer and decoder, and extends the cache by them.

    Args:
        ids: `[batch, n]`, right-padded.
        lengths: `[batch]`, real bytes per row; may be 0.
        cache: the KV cache; without one, rows begin with these bytes.
        patch_starts: `[batch, n + 1]`, to use instead of the patcher's.
        recorder: what the decoder shows its layers' states and weights; all bytes are one chunk then.
        place_block: makes a block that shares the decoder's call. It is given the position after the fed bytes,
            `[batch]`, and what gives the position where their open patch begins, or a document inside it, `[batch]`.
        close_patch: end the last patch with the bytes, whatever the patcher says. Such bytes are to be taken back:
            what follows decides where their patches really end.
        document_ends: `[batch, n]`, bytes that end a document beside `</s>`; without a cache only.
    """
    block = block_hidden = None
    hidden, completed = [], []
    size = ids.shape[1] if cache is None or recorder is not None else CHUNK_BYTES
    for columns, length, last in cut(ids, lengths, size):
        chunk = model.begin_chunk(ids[:, columns], length, cache, document_ends)
        given = None if patch_starts is None else patch_starts[:, columns.start : columns.stop + 1]
        model.segment(chunk, given, close_patch=lengths <= columns.stop if close_patch else None)
        states = model.encode(chunk)
        latents = model.compress(chunk, states)
        if place_block is not None and last:
            end = chunk.position + chunk.lengths
            block = place_block(end, partial(cache.open_start, end))
            both = _decode_with_block(model, cache, block, chunk, states, latents)
            hidden.append(both[:, : chunk.ids.shape[1]])
            block_hidden = both[:, chunk.ids.shape[1] :]
        else:
            hidden.append(model.decode(chunk, states, latents, recorder))
        completed.append(chunk.completed())
        if cache is not None:
            cache.extend(chunk)
    if not hidden:  # nothing to feed
        if place_block is not None:
            block = place_block(cache.lengths, cache.open_start)
            block_hidden = draft_block(model, block, cache)
        return Fed(torch.zeros(len(ids), 0, 1, device=ids.device), torch.zeros_like(lengths), block, block_hidden)
    if len(hidden) > 1:
        hidden, completed = [torch.cat(hidden, dim=1)], [torch.stack(completed).sum(0)]
    return Fed(hidden[0], completed[0], block, block_hidden)


def draft_block(model: "FBLTModel", block: Block, cache: FBLTCache) -> torch.Tensor:
    """Decoder states `[batch, block_size, width]` of a block that follows the bytes fed so far."""
    return _decode_with_block(model, cache, block)


def _decode_with_block(
    model: "FBLTModel",
    cache: FBLTCache,
    block: Block,
    chunk: Chunk | None = None,
    states: torch.Tensor | None = None,
    latents: torch.Tensor | None = None,
) -> torch.Tensor:
    """One decoder call over a chunk, if any, and a block after it: as in training, but with the KV cache."""
    decoder, window = model.decoder, model.config.decoder_config.sliding_window
    batch, block_size = block.ids.shape
    anchor = block.anchor
    offsets = counting(block_size, anchor.device)
    hidden = decoder.embed_tokens(block.ids)
    if chunk is None:
        n, end = 0, cache.lengths
        document = cache.here(cache.document_start)
        latents = cache.last_reads(decoder)
        index = counting(1, anchor.device).expand(batch, block_size)
    else:
        n, end = chunk.ids.shape[1], chunk.position + chunk.lengths
        document = chunk.document_start.gather(1, chunk.lengths[:, None])[:, 0]
        hidden = torch.cat([model.decoder_input(chunk.ids, states), hidden], dim=1)
        clean_index = chunk.patch_index[:, 1:] - chunk.patch_index[:, :1]
        index = torch.cat([clean_index, chunk.completed()[:, None].expand(-1, block_size)], dim=1)
        index = index.clamp(max=latents.shape[1] - 1)
    after_all = chunk is None and anchor is cache.lengths
    positions = cache.following(0, block_size) if after_all else anchor[:, None] + offsets  # [batch, block_size]

    def seen(key: torch.Tensor) -> torch.Tensor:
        first = end[:, None, None]
        own = (key >= first) & (key < first + block_size)
        to_clean = block_to_clean(positions[..., None], key, anchor[:, None, None], document[:, None, None], window)
        return to_clean | own

    if chunk is None and cache.compiles(block_size):
        context = cache.fixed_context(cache.decoder, window, cache.max_column, block_size, seen)
        return network_call(decoder, cache, block_size)(hidden, latents, index, positions, context)
    span = cache.span(window, n + block_size)
    key = cache.positions(span)[:, None]  # [batch, 1, keys]
    # Wherever the block begins, its keys are stored after the row's last byte, where later bytes overwrite them.
    if after_all and cache.same_column:
        mask = within_document(key, document[:, None, None], block_after(block_size, key.shape[-1], window, key.device))
    else:
        mask = seen(key)
    writes = [(slice(n, n + block_size), cache.columns_from(end, block_size) if n else cache.place(0, block_size))]
    if chunk is not None:
        causal = windowed_causal(chunk.positions[..., None], key, chunk.document_start[:, :n, None], window)
        mask = torch.cat([causal, mask], dim=1)
        positions = torch.cat([chunk.positions, positions], dim=1)
        writes.insert(0, (slice(0, n), chunk.column))
    context = CachedContext(cache.decoder, writes, span[1], SquareContext(mask), span)
    return decoder(hidden, latents, index, positions, context)


def draft_bytes(model: "FBLTModel", ids: torch.Tensor, offset: int, cache: FBLTCache) -> torch.Tensor:
    """Decoder states after more bytes of a causal draft, all read from the last complete latent, in one call.

    The bytes see each other causally. With a decoder that encoder states enter, the encoder runs over them too.

    Args:
        ids: `[batch, n]`, the bytes from position `lengths + offset` on; the drafted bytes before them have been
            through here.
        offset: how many bytes lie between the fed ones and these.

    Returns:
        `[batch, n, width]`.
    """
    config, n = model.config, ids.shape[1]
    positions = cache.following(offset, n)
    document = cache.here(cache.document_start)
    column = cache.place(offset, n)

    def context(stores, window: int) -> CachedContext:
        first = document[:, None, None]
        if cache.compiles(n):
            query = positions[..., None]
            return cache.fixed_context(
                stores, window, cache.max_column + offset, n, lambda key: windowed_causal(query, key, first, window)
            )
        span = cache.span(window, offset + n)
        key = cache.positions(span)[:, None]
        if cache.same_column:
            mask = within_document(key, first, last_keys(n, key.shape[-1], window, key.device)).expand(-1, n, -1)
        else:
            mask = windowed_causal(positions[..., None], key, first, window)
        return CachedContext(stores, [(slice(None), column)], span[1], SquareContext(mask), span)

    states = None
    if config.decoder_config.input == "encoder":
        cache.ids.write(ids, column, cache.max_column + offset + n)
        hashing = model.encoder.hash_embedding
        before = cache.ids_before(0 if hashing is None else hashing.context, offset)
        origin = document if config.isolate_documents else torch.zeros_like(document)
        reach = positions - origin[:, None]
        encoder_context = context(cache.encoder, config.encoder_config.sliding_window)
        states = network_call(model.encoder, cache, n)(ids, before, reach, positions, encoder_context)
    return network_call(model.decoder, cache, n)(
        model.decoder_input(ids, states),
        cache.last_reads(model.decoder),
        counting(1, ids.device).expand_as(positions),
        positions,
        context(cache.decoder, config.decoder_config.sliding_window),
    )
