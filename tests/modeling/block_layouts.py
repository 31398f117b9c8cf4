# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Random training layouts for the tests of masks: documents, anchors and blocks that end with their document."""

import torch

from modeling_fblt.masks_fblt import block_to_block, block_to_clean, windowed_causal


def random_document_starts(batch: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """`[batch, length]`; a document begins at about every twelfth byte."""
    begins = torch.rand(batch, length, generator=generator) < 1 / 12
    return torch.where(begins, torch.arange(length), 0).cummax(1).values


def random_layout(batch: int, length: int, blocks: int, size: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Document starts `[batch, length]`, sorted anchors `[batch, blocks]`, which positions are present
    `[batch, blocks, size]`, and where in its row each place of the flat training layout stands. The last row's last
    two blocks only pad the batch.
    """
    generator = torch.Generator().manual_seed(seed)
    document = random_document_starts(batch, length, generator)
    anchors = torch.randint(min(1, length - 1), length, (batch, blocks), generator=generator).sort(1).values
    position = anchors[..., None] + torch.arange(size)
    ends_at = document.gather(1, position.clamp(max=length - 1).flatten(1)).view_as(position)
    present = (position < length) & (ends_at == document.gather(1, anchors)[..., None])
    present[-1, -2:] = False
    places = torch.cat([torch.arange(length).repeat(batch), position[present]])
    return document, anchors, present, places


def flat_square(square: torch.Tensor, present: torch.Tensor, length: int) -> torch.Tensor:
    """Masks `[batch, length + blocks * size, ...]` of rows, each by itself, as one mask of the flat training layout."""
    whole = torch.block_diag(*square.long()).bool()
    batch = len(square)
    real = torch.cat([torch.ones(batch, length, dtype=torch.bool), present.flatten(1)], dim=1)
    place = torch.arange(real.numel()).view_as(real)
    order = torch.cat([place[:, :length].flatten(), place[:, length:][present.flatten(1)]])
    return whole[order[:, None], order]


def training_square(
    length: int,
    anchors: torch.Tensor,
    present: torch.Tensor,
    document_start: torch.Tensor,
    window: int,
) -> torch.Tensor:
    """The decoder's whole training mask as one dense square.

    Args:
        length: clean bytes `N`.
        anchors: `[batch, blocks]`, clean position of each block's first byte.
        present: `[batch, blocks, block_size]`, False past the document's end.
        document_start: `[batch, N]`.

    Returns:
        `[batch, N + blocks * block_size, N + blocks * block_size]` booleans, clean bytes first.
    """
    batch, blocks, block_size = present.shape
    device = anchors.device
    clean = torch.arange(length, device=device)
    offsets = torch.arange(block_size, device=device)
    block_position = (anchors[:, :, None] + offsets).flatten(1)  # [batch, blocks * block_size]
    block_index = torch.arange(blocks, device=device).repeat_interleave(block_size)
    block_anchor = anchors.repeat_interleave(block_size, dim=1)
    block_document = document_start.gather(1, block_anchor)

    mask = torch.zeros(
        batch, length + blocks * block_size, length + blocks * block_size, dtype=torch.bool, device=device
    )
    mask[:, :length, :length] = windowed_causal(clean[:, None], clean, document_start[:, :, None], window)
    mask[:, length:, :length] = block_to_clean(
        block_position[:, :, None], clean, block_anchor[:, :, None], block_document[:, :, None], window
    )
    mask[:, length:, length:] = block_to_block(block_index[:, None], block_index, present.flatten(1)[:, None, :])
    return mask
