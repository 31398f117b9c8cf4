# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""FlexAttention against the eager reference, forward and on CPUs only: torch has no gradient of it there."""

import pytest
import torch

from modeling_fblt.attention_fblt import FLEX_TILE, TiledContext
from modeling_fblt.block_attention_fblt import BlockAttentionContext, flex_block_attention
from modeling_fblt.masks_fblt import windowed_causal
from modeling_fblt.networks_fblt import FBLTDecoder
from tests.modeling.block_layouts import flat_square, random_layout, training_square
from tests.modeling.tiny import BLOCK, packed_row, random_rows, tiny_config, tiny_model

CLOSE = {"atol": 1e-9, "rtol": 0}
LONG = 2 * FLEX_TILE + 37  # several of FlexAttention's tiles, the last one not full


def mask_of(block_mask, length: int) -> torch.Tensor:
    """`[batch, length, length]`: what the rule allows in the tiles that are visited."""
    batch = block_mask.kv_num_blocks.shape[0]
    index = torch.arange(length)
    rows = torch.arange(batch)[:, None, None]
    allowed = block_mask.mask_mod(rows, 0, index[:, None], index)
    visited = block_mask.to_dense()[:, 0].repeat_interleave(FLEX_TILE, 1).repeat_interleave(FLEX_TILE, 2).bool()
    return allowed & visited[:, :length, :length]


@pytest.mark.parametrize(("length", "window"), [(1, 7), (FLEX_TILE, 7), (LONG, 7), (LONG, 100)])
def test_a_long_row_has_the_windowed_mask(length, window):
    document, *_ = random_layout(2, length, blocks=1, size=2, seed=length)
    index = torch.arange(length)
    expected = windowed_causal(index[:, None], index, document[..., None], window)
    assert torch.equal(mask_of(TiledContext(document, window).flex.block_mask, length), expected)


@pytest.mark.parametrize(("batch", "length", "blocks"), [(1, 5, 2), (2, 90, 30), (3, 47, 60)])
def test_the_training_layout_has_the_training_mask(batch, length, blocks):
    document, anchors, present, _ = random_layout(batch, length, blocks, size=4, seed=length)
    context = flex_block_attention(document, 10, anchors, present)
    expected = flat_square(training_square(length, anchors, present, document, 10), present, length)
    assert torch.equal(mask_of(context.block_mask, len(expected))[0], expected)


def test_tiles_that_nothing_attends_to_are_skipped():
    document = torch.zeros(1, 32 * FLEX_TILE, dtype=torch.long)
    anchors = torch.arange(1, 32 * FLEX_TILE, 4)[None]
    present = torch.ones(*anchors.shape, 4, dtype=torch.bool)
    visited = flex_block_attention(document, FLEX_TILE, anchors, present).block_mask.kv_num_blocks
    # The window before a tile and the tile itself; for blocks, those around their anchors and their own tile.
    assert int(visited.max()) <= 4


def test_blocks_equal_the_eager_training_layout():
    document, anchors, present, position = random_layout(2, 47, blocks=9, size=4, seed=0)
    decoder = FBLTDecoder(tiny_config().decoder_config).double().eval()
    total = document.numel() + int(present.sum())
    arguments = (
        torch.randn(1, total, 32).double(),
        torch.randn(1, 3, 32).double(),
        torch.randint(0, 3, (1, total)),
        position[None],
    )
    with torch.no_grad():
        eager = decoder(*arguments, BlockAttentionContext(document, 10, anchors, present))
        decoder.config._attn_implementation = "flex_attention"
        flex = decoder(*arguments, flex_block_attention(document, 10, anchors, present))
    torch.testing.assert_close(flex, eager, **CLOSE)


@pytest.mark.parametrize("decoder_input", ["embedding", "encoder"])
def test_a_model_has_the_same_logits_and_loss(decoder_input):
    model = tiny_model(decoder_input=decoder_input, corruption="draft").train()
    ids = torch.cat([random_rows(1, 44, seed=1), packed_row(17, 2, 25, seed=2)])
    mask = torch.ones_like(ids)
    mask[0, :9] = 0
    outputs = []
    for implementation in ("eager", "flex_attention"):
        model.set_attn_implementation(implementation)
        torch.manual_seed(0)
        with torch.no_grad():
            outputs.append(model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)))
    eager, flex = outputs
    torch.testing.assert_close(flex.logits[..., :260], eager.logits[..., :260], **CLOSE)
    torch.testing.assert_close(flex.diffusion_loss, eager.diffusion_loss, **CLOSE)
    torch.testing.assert_close(flex.next_byte_loss, eager.next_byte_loss, **CLOSE)


def test_a_model_drafts_the_same_bytes():
    model, ids = tiny_model(), random_rows(2, 30)
    settings = {"max_new_tokens": BLOCK, "decoding": "blt-dv", "eos_token_id": None}
    expected = model.generate(ids, **settings)
    model.set_attn_implementation("flex_attention")
    assert torch.equal(model.generate(ids, **settings), expected)


def test_training_on_a_cpu_is_refused():
    model = tiny_model().train()
    model.set_attn_implementation("flex_attention")
    with pytest.raises(NotImplementedError, match="backward on CPU"):
        model(random_rows(1, 30), labels=random_rows(1, 30))
