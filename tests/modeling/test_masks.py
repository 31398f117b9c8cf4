# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Attention masks: one drawn by hand, and tiled layouts against dense squares."""

import pytest
import torch

from modeling_fblt.attention_fblt import SHORTEST_TILE, SquareContext, TiledContext
from modeling_fblt.block_attention_fblt import BlockAttentionContext, TrainingLayout, flex_block_attention
from modeling_fblt.masks_fblt import (
    block_after,
    block_to_clean,
    last_keys,
    training_layout,
    windowed_causal,
    within_document,
)
from modeling_fblt.networks_fblt import FBLTDecoder
from tests.modeling.block_layouts import flat_square, random_document_starts, random_layout, training_square
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


@pytest.mark.parametrize("window", [1, 4, 70])
@pytest.mark.parametrize("queries", [1, 3, 80])
@pytest.mark.parametrize("more", [0, 2, 400])
def test_masks_of_consecutive_keys_equal_the_rules(window, queries, more):
    """Those that are kept and cut, and those made anew, at every place where a document may begin."""
    keys = queries + more
    key, query = torch.arange(keys) + 1000, torch.arange(more, keys)[:, None] + 1000
    seen = last_keys(queries, keys, window, key.device)
    for start in (0, 1000, 1000 + more, 1000 + keys - 1):
        start = torch.tensor([[[start]]])
        found = within_document(key, start, seen).expand(1, queries, keys)
        assert torch.equal(found, windowed_causal(query, key, start, window))
    if more >= window:
        return
    own = key >= 1000 + more
    expected = block_to_clean(query, key, torch.tensor(1000 + more), torch.tensor(0), window) | own
    assert torch.equal(block_after(queries, keys, window, key.device), expected)


# Windows of one tile, of several, and of a number that is no multiple of its tiles.
WINDOWS = [DECODER_WINDOW, 2 * SHORTEST_TILE, 2 * SHORTEST_TILE + 5, 4 * SHORTEST_TILE + 6]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("length", [1, DECODER_WINDOW, 2 * DECODER_WINDOW + 1, 301])
def test_tiles_equal_the_dense_square(length, window):
    torch.manual_seed(length)
    document = random_document_starts(2, length, torch.Generator().manual_seed(length))
    position = torch.arange(length)
    dense = SquareContext(windowed_causal(position[:, None], position, document[..., None], window))
    decoder = FBLTDecoder(tiny_config().decoder_config).double().eval()
    hidden, positions = torch.randn(2, length, 32).double(), position.expand(2, -1)
    latents = torch.randn(2, 3, 32).double()
    index = torch.randint(0, 3, (2, length))
    arguments = (hidden, latents, index, positions)
    tiled = decoder(*arguments, TiledContext(document, window))
    torch.testing.assert_close(tiled, decoder(*arguments, dense), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("length", "window"), [(1, 10), (9, 10), (30, 10), (47, 10), *((150, window) for window in WINDOWS[1:])]
)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_tiled_blocks_equal_the_dense_training_square(length, window, implementation):
    torch.manual_seed(length)
    # Many blocks and few: tiles that hold several groups of them, and tiles that hold none.
    for blocks in (2, 7, 40):
        document, anchors, present, position = random_layout(2, length, blocks, size=4, seed=length + blocks)
        mask = flat_square(training_square(length, anchors, present, document, window), present, length)
        config = tiny_config().decoder_config
        config._attn_implementation = implementation
        decoder = FBLTDecoder(config).double().eval()
        total = len(position)
        hidden, latents = torch.randn(1, total, 32).double(), torch.randn(1, 3, 32).double()
        arguments = (hidden, latents, torch.randint(0, 3, (1, total)), position[None])
        tiled = decoder(*arguments, BlockAttentionContext(document, window, anchors, present))
        dense = decoder(*arguments, SquareContext(mask[None]))
        torch.testing.assert_close(tiled, dense, atol=1e-12, rtol=0)


@pytest.mark.parametrize("keys", [4, 5, 70])
def test_windows_wider_than_any_memory_see_all_that_there_is(keys):
    for window in (100, 10**12):
        found = last_keys(4, keys, window, torch.device("cpu"))
        assert torch.equal(found, torch.ones(4, keys, dtype=torch.bool).tril(keys - 4))
        after = block_after(3, keys, window, torch.device("cpu"))
        assert after.shape == (3, keys) and after.all()


@pytest.mark.parametrize("build", [BlockAttentionContext, flex_block_attention])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_states_that_are_asked_for_equal_those_of_all(build, share):
    torch.manual_seed(0)
    document, anchors, present, position = random_layout(2, 47, 20, size=4, seed=3)
    config = tiny_config().decoder_config
    if build is flex_block_attention:
        config._attn_implementation = "flex_attention"
    decoder = FBLTDecoder(config).double().eval()
    total, clean = len(position), document.numel()
    hidden, latents = torch.randn(1, total, 32).double(), torch.randn(1, 3, 32).double()
    arguments = (hidden, latents, torch.randint(0, 3, (1, total)), position[None])
    asked = torch.cat([torch.arange(clean), clean + (torch.rand(total - clean) < share).nonzero()[:, 0]])
    context = build(document, DECODER_WINDOW, anchors, present)
    with torch.no_grad():
        whole = decoder(*arguments, context)
        some = decoder(*arguments, context, asked=asked[None])
    torch.testing.assert_close(some, whole[:, asked], atol=1e-12, rtol=0)


def test_the_rule_of_flat_layouts_equals_the_training_square():
    document, anchors, present, _ = random_layout(2, 47, 20, size=4, seed=0)
    layout = TrainingLayout.of(document, anchors, present)
    rule = training_layout(
        layout.position[:, None],
        layout.position,
        layout.anchor[:, None],
        layout.document_start[:, None],
        layout.block[:, None],
        layout.block,
        DECODER_WINDOW,
    )
    square = training_square(47, anchors, present, document, DECODER_WINDOW)
    assert torch.equal(rule, flat_square(square, present, 47))
