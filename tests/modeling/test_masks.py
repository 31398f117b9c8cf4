# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Attention masks: one drawn by hand, and tiled layouts against dense squares."""

import pytest
import torch

from modeling_fblt.attention_fblt import BlockTrainingContext, SquareContext, TiledContext
from modeling_fblt.masks_fblt import training_square, windowed_causal
from modeling_fblt.networks_fblt import FBLTDecoder
from tests.modeling.tiny import DECODER_WINDOW, tiny_config

# 12 bytes, a document end after byte 6, a window of 4; blocks of 3 at bytes 2, 5 and 9. The second block's last byte
# would lie in the next document and is absent. Rows are queries, columns keys; a space after each group of keys.
DRAWN = """
100000000000 000 000 000
110000000000 000 000 000
111000000000 000 000 000
111100000000 000 000 000
011110000000 000 000 000
001111000000 000 000 000
000111100000 000 000 000
000000010000 000 000 000
000000011000 000 000 000
000000011100 000 000 000
000000011110 000 000 000
000000001111 000 000 000

110000000000 111 000 000
110000000000 111 000 000
010000000000 111 000 000

001110000000 000 110 000
000110000000 000 110 000
000010000000 000 110 000

000000011000 000 000 111
000000011000 000 000 111
000000001000 000 000 111
"""


def test_the_training_mask_is_the_one_drawn_by_hand():
    rows = [line.replace(" ", "") for line in DRAWN.split("\n") if line]
    expected = torch.tensor([[key == "1" for key in row] for row in rows])
    document_start = torch.tensor([[0] * 7 + [7] * 5])
    present = torch.tensor([[[True] * 3, [True, True, False], [True] * 3]])
    mask = training_square(12, torch.tensor([[2, 5, 9]]), present, document_start, window=4)
    assert torch.equal(mask[0], expected)


def random_document_starts(batch: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """`[batch, length]`; a document begins at about every twelfth byte."""
    begins = torch.rand(batch, length, generator=generator) < 1 / 12
    return torch.where(begins, torch.arange(length), 0).cummax(1).values


@pytest.mark.parametrize("length", [1, DECODER_WINDOW, 2 * DECODER_WINDOW + 1, 47])
def test_tiles_equal_the_dense_square(length):
    torch.manual_seed(length)
    document = random_document_starts(2, length, torch.Generator().manual_seed(length))
    position = torch.arange(length)
    dense = SquareContext(windowed_causal(position[:, None], position, document[..., None], DECODER_WINDOW))
    decoder = FBLTDecoder(tiny_config().decoder_config).double().eval()
    hidden, positions = torch.randn(2, length, 32).double(), position.expand(2, -1)
    latents = torch.randn(2, 3, 32).double()
    index = torch.randint(0, 3, (2, length))
    arguments = (hidden, latents, index, positions)
    tiled = decoder(*arguments, TiledContext(document, DECODER_WINDOW))
    torch.testing.assert_close(tiled, decoder(*arguments, dense), atol=1e-12, rtol=0)


@pytest.mark.parametrize("length", [9, 3 * DECODER_WINDOW, 47])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_tiled_blocks_equal_the_dense_training_square(length, implementation):
    torch.manual_seed(length)
    generator = torch.Generator().manual_seed(length)
    batch, blocks, size, window = 2, 7, 4, DECODER_WINDOW
    document = random_document_starts(batch, length, generator)
    anchors = torch.randint(1, length, (batch, blocks), generator=generator).sort(1).values
    position = anchors[..., None] + torch.arange(size)
    ends_at = document.gather(1, position.clamp(max=length - 1).flatten(1)).view_as(position)
    present = (position < length) & (ends_at == document.gather(1, anchors)[..., None])
    present[1, -2:] = False  # blocks that only pad the batch
    mask = training_square(length, anchors, present, document, window)

    config = tiny_config().decoder_config
    config._attn_implementation = implementation
    decoder = FBLTDecoder(config).double().eval()
    total = length + blocks * size
    hidden, latents = torch.randn(batch, total, 32).double(), torch.randn(batch, 3, 32).double()
    positions = torch.cat([torch.arange(length).expand(batch, -1), position.flatten(1)], dim=1)
    arguments = (hidden, latents, torch.randint(0, 3, (batch, total)), positions)
    tiled = decoder(*arguments, BlockTrainingContext(document, window, anchors, present))
    dense = decoder(*arguments, SquareContext(mask))
    real = torch.cat([torch.ones(batch, length, dtype=torch.bool), present.flatten(1)], dim=1)
    torch.testing.assert_close(tiled[real], dense[real], atol=1e-12, rtol=0)
    assert tiled.isfinite().all()
