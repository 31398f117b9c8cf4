# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Where patches start: pure functions from bytes and entropies to boolean starts.

Rows are right-padded. `n` bytes give `n + 1` columns of starts: whether the *next* byte starts a patch is decided by
the bytes before it. A patch is complete once the next byte starts a new one. Every function also works on a chunk that
continues a row; `PatchingState` says what the bytes before it decided.
"""

from dataclasses import dataclass

import torch

from .configuration_fblt import BYTE_OFFSET
from .counting_fblt import counting, scalar

NO_POSITION = -1


@dataclass
class PatchingState:
    """What a chunk needs to know of the bytes before it; all `[batch]`.

    Attributes:
        position: row position of the chunk's first byte.
        last_start: last position `<= position` that starts a patch, so `position` itself if `first_is_start`.
        document_start: position at which the document of the chunk's first byte begins.
        first_is_start: whether the chunk's first byte starts a patch.
        previous: ids of the two bytes before the chunk `[batch, 2]`, -1 where there are none; for the mode `"space"`.
    """

    position: torch.Tensor
    last_start: torch.Tensor
    document_start: torch.Tensor
    first_is_start: torch.Tensor
    previous: torch.Tensor | None = None

    @classmethod
    def initial(cls, batch: int, device: torch.device) -> "PatchingState":
        """The state before the first byte of `batch` rows."""
        zeros = torch.zeros(batch, dtype=torch.long, device=device)
        return cls(
            position=zeros,
            last_start=zeros,
            document_start=zeros,
            first_is_start=torch.ones(batch, dtype=torch.bool, device=device),
            previous=torch.full((batch, 2), NO_POSITION, dtype=torch.long, device=device),
        )


def entropies_from_logits(logits: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of the next-byte distributions. `[..., vocab] -> [...]`, at least in float32."""
    wide = logits if logits.dtype.itemsize >= torch.float32.itemsize else logits.float()
    log_p = torch.log_softmax(wide, dim=-1)
    return -(log_p.exp() * log_p).sum(-1)


def is_separator(ids: torch.Tensor, eos_token_id: int | list[int] | None) -> torch.Tensor:
    """Which ids end a document. Shape kept; all False without an `eos_token_id`."""
    if eos_token_id is None:
        return torch.zeros_like(ids, dtype=torch.bool)
    eos = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)
    found = ids == eos[0]
    for other in eos[1:]:
        found = found | (ids == other)
    return found


def ends_of_documents(position_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Which bytes end a document, by positions that begin at 0 with each: what packing without padding hands on.

    Args:
        position_ids: `[batch, n]`, of right-padded rows.
        lengths: `[batch]`, real bytes per row.

    Returns:
        `[batch, n]` booleans. A row's last byte is none: what follows it is not known.

    Raises:
        ValueError: the positions neither go on by 1 nor begin again at 0.
    """
    column = torch.arange(position_ids.shape[1], device=position_ids.device)
    begins = position_ids == 0
    goes_on = torch.zeros_like(begins)
    goes_on[:, 1:] = position_ids.diff(dim=1) == 1
    if not bool((begins | goes_on | (column >= lengths[:, None])).all()):
        raise ValueError(
            "`position_ids` jump: FBLT counts positions itself, and reads from them only where documents begin; give "
            "0, 1, 2 and so on for each document of a row, or leave them out."
        )
    ends = torch.zeros_like(begins)
    ends[:, :-1] = begins[:, 1:]
    return ends & (column + 1 < lengths[:, None])


def _nowhere(device: torch.device) -> torch.Tensor:
    return scalar(NO_POSITION, torch.long, device)


def document_starts(
    separator: torch.Tensor, position: torch.Tensor, first: torch.Tensor, following: torch.Tensor | None = None
) -> torch.Tensor:
    """Row position at which each position's document begins, next position included.

    Args:
        separator: `[batch, n]`, True where a byte ends its document.
        position: `[batch]`, row position of the first byte.
        first: `[batch]`, where the first byte's document begins.
        following: `[batch, n]`, the positions after the bytes, where they are known.

    Returns:
        `[batch, n + 1]` positions.
    """
    if following is None:
        following = position[:, None] + counting(separator.shape[1] + 1, separator.device, start=1)
    begins = torch.where(separator, following, _nowhere(separator.device))
    return torch.cat([first[:, None], begins], dim=1).cummax(dim=1).values


def _space_like(ids: torch.Tensor) -> torch.Tensor:
    """BLT's space rule: any byte that is neither an ASCII letter or digit nor a continuation byte of UTF-8."""
    byte = ids - BYTE_OFFSET
    word = (byte >= ord("0")) & (byte <= ord("9"))
    word = word | ((byte >= ord("A")) & (byte <= ord("Z"))) | ((byte >= ord("a")) & (byte <= ord("z")))
    return ~(word | ((byte >= 0x80) & (byte < 0xC0)))


def raw_boundaries(
    mode: str,
    ids: torch.Tensor,
    entropies: torch.Tensor | None,
    state: PatchingState,
    origin: torch.Tensor,
    threshold: float,
    patch_size: int,
) -> torch.Tensor:
    """Whether the byte after each byte starts a patch by the mode's own rule, limits and documents aside.

    Args:
        mode: `"entropy"`, `"static"` or `"space"`.
        ids: `[batch, n]`.
        entropies: `[batch, n]` in nats; needed by `"entropy"` only.
        origin: `[batch, n + 1]`, position from which `"static"` counts: where an isolated document begins, else 0.

    Returns:
        `[batch, n]` booleans, column `j` for position `j + 1`.
    """
    if mode == "entropy":
        return entropies > threshold
    if mode == "static":
        next_position = state.position[:, None] + counting(ids.shape[1] + 1, ids.device, start=1)
        return (next_position - origin[:, 1:] - 1) % patch_size == 0
    before = torch.cat([state.previous[:, 1:], ids[:, :-1]], dim=1)
    special = ids < BYTE_OFFSET
    return special | (_space_like(ids) & ~_space_like(before))


def patch_starts(
    boundaries: torch.Tensor,
    state: PatchingState,
    document_start: torch.Tensor,
    max_patch_length: int | None,
    isolate_documents: bool,
    positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """Turns a mode's boundaries into patch starts.

    A document's first two bytes start patches, whatever the mode says, and long patches are cut.

    Args:
        boundaries: `[batch, n]`, see [`raw_boundaries`].
        document_start: `[batch, n + 1]`.
        positions: `[batch, n + 1]`, row positions of the bytes and the next one, where they are known.

    Returns:
        `[batch, n + 1]` booleans: column `j` for row position `position + j`.
    """
    n = boundaries.shape[1]
    if positions is None:
        positions = state.position[:, None] + counting(n + 1, boundaries.device)
    # A document's first two positions start patches whatever the rule says.
    origin = document_start[:, 1:] if isolate_documents else scalar(0, torch.long, boundaries.device)
    starts = boundaries | (positions[:, :-1] <= origin)
    if max_patch_length is None:
        return torch.cat([state.first_is_start[:, None], starts], dim=1)
    # A cut lies a multiple of the limit after the last uncut start, so no scan over bytes is needed.
    uncut = torch.where(starts, positions[:, 1:], _nowhere(starts.device))
    uncut = torch.cat([state.last_start[:, None], uncut], dim=1).cummax(dim=1).values
    return (positions - uncut) % max_patch_length == 0
