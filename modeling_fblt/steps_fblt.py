# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The cached steps that decoding is made of: feed known bytes, draft bytes one by one, draft a block at once.

Feeding extends every cache. Drafting reads the caches and leaves its own keys beyond the rows' lengths, where the
next feed overwrites them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .attention_fblt import CachedContext, SquareContext
from .cache_fblt import FBLTCache
from .masks_fblt import block_to_block, block_to_clean, windowed_causal
from .rows_fblt import Chunk

if TYPE_CHECKING:
    from .modeling_fblt import FBLTModel


@dataclass
class Fed:
    """What feeding a chunk gave.

    Attributes:
        hidden: `[batch, n, width]`, decoder states of the chunk's bytes.
        block: `[batch, block_size, width]`, decoder states of the block drafted in the same call, if any.
        completed: `[batch]`, patches the chunk completed.
    """

    hidden: torch.Tensor
    block: torch.Tensor | None
    completed: torch.Tensor


def feed(
    model: "FBLTModel",
    ids: torch.Tensor,
    lengths: torch.Tensor,
    cache: FBLTCache,
    block_ids: torch.Tensor | None = None,
    close_patch: bool = False,
) -> Fed:
    """Runs new bytes through patcher, encoder, global transformer and decoder, and extends the cache by them.

    Args:
        ids: `[batch, n]`, right-padded.
        lengths: `[batch]`, real bytes per row; may be 0.
        block_ids: `[batch, block_size]`, a block that follows the chunk and shares its decoder call.
        close_patch: end the last patch with the chunk, whatever the patcher says. Such bytes are to be taken back:
            their true boundaries are decided by what follows.
    """
    chunk = model.begin_chunk(ids, lengths, cache)
    model.segment(chunk, close_patch=close_patch)
    states = model.encode(chunk)
    latents = model.compress(chunk, states)
    if block_ids is None:
        hidden, block = model.decode(chunk, states, latents), None
    else:
        n = ids.shape[1]
        both = _decode_with_block(model, cache, block_ids, chunk, states, latents)
        hidden, block = both[:, :n], both[:, n:]
    cache.extend(chunk, 0)
    return Fed(hidden, block, chunk.completed())


def draft_block(model: "FBLTModel", block_ids: torch.Tensor, cache: FBLTCache) -> torch.Tensor:
    """Decoder states `[batch, block_size, width]` of a block that follows the bytes fed so far."""
    return _decode_with_block(model, cache, block_ids)


def _decode_with_block(
    model: "FBLTModel",
    cache: FBLTCache,
    block_ids: torch.Tensor,
    chunk: Chunk | None = None,
    states: torch.Tensor | None = None,
    latents: torch.Tensor | None = None,
) -> torch.Tensor:
    """One decoder call over a chunk, if any, and a block behind it: the training layout, cached."""
    decoder, window = model.decoder, model.config.decoder_config.sliding_window
    batch, block_size = block_ids.shape
    offsets = torch.arange(block_size, device=block_ids.device)
    hidden = decoder.embed_tokens(block_ids)
    if chunk is None:
        n, anchor = 0, cache.lengths
        document = cache.document_start.at(anchor)
        latents = cache.last_latent()
        index = offsets.new_zeros(batch, block_size)
    else:
        n, anchor = chunk.ids.shape[1], chunk.position + chunk.lengths
        document = chunk.document_start.gather(1, chunk.lengths[:, None])[:, 0]
        hidden = torch.cat([model.decoder_input(chunk.ids, states), hidden], dim=1)
        clean_index = chunk.patch_index[:, 1:] - chunk.patch_index[:, :1]
        index = torch.cat([clean_index, chunk.completed()[:, None].expand(-1, block_size)], dim=1)
        index = index.clamp(max=latents.shape[1] - 1)
    positions = anchor[:, None] + offsets  # [batch, block_size]

    low, high = max(0, cache.min_length - window + 1), int(anchor.max()) + block_size
    key = torch.arange(low, high, device=block_ids.device)
    # A block's keys stand behind the row's last byte, where later bytes will overwrite them.
    own = (key >= anchor[:, None]) & (key < anchor[:, None] + block_size)
    to_clean = block_to_clean(positions[..., None], key, anchor[:, None, None], document[:, None, None], window)
    mask = to_clean | block_to_block(offsets.new_zeros(1), offsets.new_zeros(1), own[:, None, :])
    writes = [(slice(n, n + block_size), anchor)]
    if chunk is not None:
        causal = windowed_causal(chunk.positions[..., None], key, chunk.document_start[:, :n, None], window)
        mask = torch.cat([causal, mask], dim=1)
        positions = torch.cat([chunk.positions, positions], dim=1)
        writes.insert(0, (slice(0, n), chunk.position))
    context = CachedContext(cache.decoder, writes, SquareContext(mask), (low, high))
    return decoder(hidden, latents, index, positions, context)


def draft_byte(model: "FBLTModel", ids: torch.Tensor, offset: int, cache: FBLTCache) -> torch.Tensor:
    """Decoder state after one more byte of a causal draft, read from the last complete latent.

    Args:
        ids: `[batch, 1]`, the byte at position `lengths + offset`; the drafted bytes before it have been through here.
        offset: how many bytes lie between the fed ones and this one.

    Returns:
        `[batch, 1, width]`.
    """
    config = model.config
    position = cache.lengths + offset
    positions = position[:, None]
    document = cache.document_start.at(cache.lengths)

    def context(stores, window: int) -> CachedContext:
        low, high = max(0, cache.min_length + offset - window + 1), cache.max_length + offset + 1
        key = torch.arange(low, high, device=ids.device)
        mask = windowed_causal(positions[..., None], key, document[:, None, None], window)
        return CachedContext(stores, [(slice(None), position)], SquareContext(mask), (low, high))

    states = None
    if config.decoder_config.input == "encoder":
        cache.ids.write(ids, position)
        hashing = model.encoder.hash_embedding
        before = cache.ids_before(0 if hashing is None else hashing.context, position)
        origin = document if config.isolate_documents else torch.zeros_like(document)
        reach = positions - origin[:, None]
        encoder_context = context(cache.encoder, config.encoder_config.sliding_window)
        states = model.encoder(ids, before, reach, positions, encoder_context)
    return model.decoder(
        model.decoder_input(ids, states),
        cache.last_latent(),
        torch.zeros_like(positions),
        positions,
        context(cache.decoder, config.decoder_config.sliding_window),
    )
