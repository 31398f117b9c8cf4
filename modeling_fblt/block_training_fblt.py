# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The decoder's attention in training: clean bytes and the blocks that continue them, in one pass (paper section 3)."""

from copy import copy
from dataclasses import dataclass

import torch

from .attention_fblt import Attended, FlexContext, SquareContext, TiledContext, by_place, take_rows
from .masks_fblt import block_to_block, block_to_clean, training_layout


@dataclass
class TrainingLayout:
    """Clean bytes of all rows, then the present positions of all blocks, as one long row.

    Rows follow each other as documents do, so that nothing is computed for what pads a batch. Positions, blocks and
    documents are counted through all rows.

    Attributes:
        length: clean bytes, `batch * n`.
        anchors: `[blocks]`, position of each block's first byte, sorted.
        position, anchor, document_start: `[length + positions]`, of each place: where it stands, where its block begins
            (for a clean byte, the position after it) and where its document begins.
        block: `[length + positions]`, index of its block, -1 for clean bytes.
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
            document_start: `[batch, n]` of clean bytes, counted from the beginning of their row.
            anchors: `[batch, blocks]`, likewise; sorted.
            present: `[batch, blocks, block_size]`, False for positions past the document's end: these are left out.
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


class BlockTrainingContext:
    """The decoder's training layout: clean bytes of all rows, then the present positions of all blocks, as one long row
    (paper section 3; see [`TrainingLayout`]).

    Clean bytes attend as always. A block sees the clean window before its anchor and itself: blocks that stand in one
    tile share its keys, a few at a time, so that the cost stays linear in the length of the rows.

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
        own_places = self.query_places = self._places(self.slot)
        self.key_places = torch.cat([self.clean.key_places[group_tile], own_places], dim=1)
        filled = torch.zeros(self.shape, dtype=torch.bool, device=device)
        filled.view(-1)[self.slot] = True
        of_places = (layout.position, layout.anchor, layout.document_start)
        position, anchor, document = (values[own_places][..., None] for values in of_places)
        to_clean = block_to_clean(position, self.clean.key_position[group_tile][:, None], anchor, document, window)
        own = torch.arange(lanes, device=device).repeat_interleave(block_size)
        to_own = block_to_block(own[:, None], own, filled[:, None])
        self.by_group = SquareContext(torch.cat([to_clean, to_own], dim=-1))  # [groups, queries, keys]

    def _places(self, slot: torch.Tensor) -> torch.Tensor:
        """What stands in each slot, as a place of the layout: `[groups, slots]`.

        Args:
            slot: `[positions]`, where the blocks' positions stand; other slots hold byte 0, which nothing sees.
        """
        places = torch.zeros(self.shape, dtype=torch.long, device=slot.device)
        places.view(-1)[slot] = self.clean.length + torch.arange(len(slot), device=slot.device)
        return places

    def of_queries(self, asked: torch.Tensor) -> "BlockTrainingContext":
        """The same keys for the queries `asked` `[1, queries]`: all clean bytes, then some positions of blocks."""
        some = copy(self)
        some.slot = self.slot[asked[0, self.clean.length :] - self.clean.length]
        some.query_places = self._places(some.slot)
        return some

    def attend(self, attention, query, key, value) -> Attended:
        clean, _ = self.clean.attend(attention, query, key, value)
        if self.shape[0] == 0:
            return clean, None
        query = by_place(query, self.query_places)
        key, value = by_place(key, self.key_places), by_place(value, self.key_places)
        output, _ = self.by_group.attend(attention, query, key, value)  # [groups, slots, heads, head_dim]
        output = output.transpose(1, 2)  # as computed, heads before slots: no copy in what follows
        slots, heads = self.shape[1], torch.arange(output.shape[1], device=output.device)
        rows = (self.slot // slots)[:, None] * len(heads) + heads  # [positions, heads]
        blocks = take_rows(output.flatten(0, 2), rows * slots + (self.slot % slots)[:, None])
        return torch.cat([clean, blocks[None]], dim=1), None


def flex_block_training(
    document_start: torch.Tensor, window: int, anchors: torch.Tensor, present: torch.Tensor
) -> FlexContext:
    """[`BlockTrainingContext`] for FlexAttention: the same layout and the same mask."""
    layout = TrainingLayout.of(document_start, anchors, present)
    position, anchor, document, block = layout.position, layout.anchor, layout.document_start, layout.block

    def rule(batch, head, query, key):
        return training_layout(
            position[query], position[key], anchor[query], document[query], block[query], block[key], window
        )

    clean = (torch.maximum(document, position - window + 1), torch.minimum(position, anchor - 1))
    # A block's own positions stand side by side; clean bytes have none.
    places = torch.arange(len(block), device=block.device)[layout.length :]
    own = block[layout.length :]
    first = torch.full((len(layout.anchors),), len(block), device=block.device).scatter_reduce(0, own, places, "amin")
    last = torch.full_like(first, -1).scatter_reduce(0, own, places, "amax")
    none = torch.zeros(layout.length, dtype=torch.long, device=block.device)
    blocks = (torch.cat([none, first[own]]), torch.cat([none - 1, last[own]]))
    return FlexContext(rule, [(low[None], high[None]) for low, high in (clean, blocks)], len(block))
