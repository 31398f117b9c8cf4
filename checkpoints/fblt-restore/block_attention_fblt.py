# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The decoder's attention in training: clean bytes and the blocks that continue them, in one pass (paper section 3)."""

from copy import copy
from dataclasses import dataclass

import torch

from .attention_fblt import Attended, FlexContext, SquareContext, TiledContext, gather_heads
from .gather_fblt import take_entries
from .masks_fblt import block_to_block, block_to_clean, training_layout


@dataclass
class TrainingLayout:
    """Clean bytes of all rows, then the present bytes of all blocks, as one long row.

    Rows follow each other as documents do, so that nothing is computed for padding of the batch. A position here is
    counted through all rows: `batch index * n + position`. An entry is a clean byte or a byte of a block.

    Attributes:
        length: clean bytes, `batch * n`.
        anchors: `[blocks]`, position of each block's first byte, sorted.
        position: `[entries]`, position of each entry.
        anchor: `[entries]`, position where its block begins; for a clean byte, the position after it.
        document_start: `[entries]`, position where its document begins.
        block: `[entries]`, index of its block, -1 for clean bytes.
    """

    length: int
    anchors: torch.Tensor
    position: torch.Tensor
    anchor: torch.Tensor
    document_start: torch.Tensor
    block: torch.Tensor

    @classmethod
    def of(cls, document_start: torch.Tensor, anchors: torch.Tensor, present: torch.Tensor) -> "TrainingLayout":
        """
        Args:
            document_start: `[batch, n]`, position in its row where each clean byte's document begins.
            anchors: `[batch, blocks]`, position in its row of each block's first byte; sorted.
            present: `[batch, blocks, block_size]`, False past the document's end: these bytes are left out.
        """
        batch, n = document_start.shape
        device = anchors.device
        row = torch.arange(batch, device=device)[:, None] * n
        documents = (document_start + row).flatten()
        filled = present.any(-1)
        first = (anchors + row)[filled]  # [blocks]
        block, offset = present[filled].nonzero(as_tuple=True)
        clean = torch.arange(batch * n, device=device)
        return cls(
            length=batch * n,
            anchors=first,
            position=torch.cat([clean, first[block] + offset]),
            anchor=torch.cat([clean + 1, first[block]]),
            document_start=torch.cat([documents, documents[first[block]]]),
            block=torch.cat([torch.full_like(clean, -1), block]),
        )


class BlockAttentionContext:
    """Attention over a [`TrainingLayout`] (paper section 3).

    Clean bytes attend as always. A block sees the clean window before its anchor, and itself. Blocks that begin in the
    same tile share that tile's keys, in groups of a few blocks, so the cost stays linear in the length of the rows.

    Args:
        document_start, anchors, present: see [`TrainingLayout`].
    """

    def __init__(self, document_start: torch.Tensor, window: int, anchors: torch.Tensor, present: torch.Tensor):
        layout = TrainingLayout.of(document_start, anchors, present)
        # Nothing is further away than the longest document's first byte: smaller tiles, fewer products, equal results.
        window = min(window, int((layout.position - layout.document_start).max()) + 1)
        self.clean = TiledContext(layout.document_start[None, : layout.length], window)
        device, block_size = anchors.device, present.shape[2]
        # Few blocks to a group: it computes all products among them, of which only each block's own count.
        lanes = max(self.clean.width // block_size, 1)
        tile = layout.anchors // self.clean.width
        counts = torch.bincount(tile, minlength=self.clean.tiles)
        groups = (counts + lanes - 1) // lanes  # of each tile
        group_tile = torch.repeat_interleave(groups)
        rank = torch.arange(len(tile), device=device) - (counts.cumsum(0) - counts)[tile]
        lane = ((groups.cumsum(0) - groups)[tile] + rank // lanes) * lanes + rank % lanes  # of each block

        offset = torch.arange(block_size, device=device)
        self.slot = (lane[:, None] * block_size + offset)[present[present.any(-1)]]  # of each position
        self.shape = (len(group_tile), lanes * block_size)  # groups, slots
        own_index = self.query_index = self._index(self.slot)
        self.key_index = torch.cat([self.clean.key_index[group_tile], own_index], dim=1)
        filled = torch.zeros(self.shape, dtype=torch.bool, device=device)
        filled.view(-1)[self.slot] = True
        fields = (layout.position, layout.anchor, layout.document_start)
        position, anchor, document = (values[own_index][..., None] for values in fields)
        to_clean = block_to_clean(position, self.clean.key_position[group_tile][:, None], anchor, document, window)
        own = torch.arange(lanes, device=device).repeat_interleave(block_size)
        to_own = block_to_block(own[:, None], own, filled[:, None])
        self.by_group = SquareContext(torch.cat([to_clean, to_own], dim=-1))  # [groups, queries, keys]

    def _index(self, slot: torch.Tensor) -> torch.Tensor:
        """Which entry of the layout stands in each slot of the groups: `[groups, slots]`.

        Args:
            slot: `[block bytes]`, the slot of each; all other slots hold entry 0, which nothing sees.
        """
        index = torch.zeros(self.shape, dtype=torch.long, device=slot.device)
        index.view(-1)[slot] = self.clean.length + torch.arange(len(slot), device=slot.device)
        return index

    def of_queries(self, asked: torch.Tensor) -> "BlockAttentionContext":
        """The same keys for fewer queries: `asked` `[1, queries]`, all clean bytes, then some bytes of blocks."""
        some = copy(self)
        some.slot = self.slot[asked[0, self.clean.length :] - self.clean.length]
        some.query_index = self._index(some.slot)
        return some

    def attend(self, attention, query, key, value, both=None) -> Attended:
        clean, _ = self.clean.attend(attention, query, key, value)
        if self.shape[0] == 0:
            return clean, None
        query = gather_heads(query, self.query_index)
        key, value = gather_heads(key, self.key_index), gather_heads(value, self.key_index)
        output, _ = self.by_group.attend(attention, query, key, value)  # [groups, slots, heads, head_dim]
        output = output.transpose(1, 2)  # as computed, heads before slots: no copy in what follows
        slots, heads = self.shape[1], torch.arange(output.shape[1], device=output.device)
        rows = (self.slot // slots)[:, None] * len(heads) + heads  # [positions, heads]
        blocks = take_entries(output.flatten(0, 2), rows * slots + (self.slot % slots)[:, None])
        return torch.cat([clean, blocks[None]], dim=1), None


def flex_block_attention(
    document_start: torch.Tensor, window: int, anchors: torch.Tensor, present: torch.Tensor
) -> FlexContext:
    """[`BlockAttentionContext`] for FlexAttention: the same layout and the same mask."""
    layout = TrainingLayout.of(document_start, anchors, present)
    position, anchor, document, block = layout.position, layout.anchor, layout.document_start, layout.block

    def rule(batch, head, query, key):
        return training_layout(
            position[query], position[key], anchor[query], document[query], block[query], block[key], window
        )

    clean = (torch.maximum(document, position - window + 1), torch.minimum(position, anchor - 1))
    # A block's bytes stand side by side; clean bytes have no block.
    index = torch.arange(len(block), device=block.device)[layout.length :]
    own = block[layout.length :]
    first = torch.full((len(layout.anchors),), len(block), device=block.device).scatter_reduce(0, own, index, "amin")
    last = torch.full_like(first, -1).scatter_reduce(0, own, index, "amax")
    none = torch.zeros(layout.length, dtype=torch.long, device=block.device)
    blocks = (torch.cat([none, first[own]]), torch.cat([none - 1, last[own]]))
    return FlexContext(rule, [(low[None], high[None]) for low, high in (clean, blocks)], len(block))
