# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Which bytes keep a text valid UTF-8: an automaton over ids, and the logits processor that generation needs.

Strict UTF-8: no overlong forms, no surrogates, nothing beyond U+10FFFF. Text that is not valid is never an error here.
A broken character is dropped and reading goes on as Python's `errors="replace"` decoder does: a byte that can begin
a character begins one, a stray continuation byte or a byte that UTF-8 never uses leaves nothing open. Special ids
(`<pad>`, `<s>`, `</s>`, the reserved id, `<mask>`) leave nothing open either.

A character that does not fit in the room that is left is never begun. So a length limit is used up to its last byte and
the text still ends on a whole character. The one exception: a character that the prompt left open and that needs
more bytes than the limit has.
"""

import functools
from typing import NamedTuple

import torch
from transformers import LogitsProcessor

from .configuration_fblt import BYTE_OFFSET, VOCAB_SIZE

# States: no character open; 1, 2 or 3 bytes of any value missing; and the four leads that restrict the next byte.
COMPLETE, ONE_MORE, TWO_MORE, THREE_MORE, AFTER_E0, AFTER_ED, AFTER_F0, AFTER_F4 = range(8)
_MISSING = (0, 1, 2, 3, 2, 2, 3, 3)

# (first byte, last byte, state they lead to) of the bytes that begin a character. C0, C1 and F5..FF never occur.
_LEADS = (
    (0x00, 0x7F, COMPLETE),
    (0xC2, 0xDF, ONE_MORE),
    (0xE0, 0xE0, AFTER_E0),
    (0xE1, 0xEC, TWO_MORE),
    (0xED, 0xED, AFTER_ED),
    (0xEE, 0xEF, TWO_MORE),
    (0xF0, 0xF0, AFTER_F0),
    (0xF1, 0xF3, THREE_MORE),
    (0xF4, 0xF4, AFTER_F4),
)
# The same of the bytes that continue one, per state.
_CONTINUATIONS = {
    ONE_MORE: (0x80, 0xBF, COMPLETE),
    TWO_MORE: (0x80, 0xBF, ONE_MORE),
    THREE_MORE: (0x80, 0xBF, TWO_MORE),
    AFTER_E0: (0xA0, 0xBF, ONE_MORE),  # below: overlong
    AFTER_ED: (0x80, 0x9F, ONE_MORE),  # above: surrogates
    AFTER_F0: (0x90, 0xBF, TWO_MORE),  # below: overlong
    AFTER_F4: (0x80, 0x8F, TWO_MORE),  # above: beyond U+10FFFF
}
# A sequence has at most 4 bytes, so an open character began within the last 3.
_LOOK_BACK = 3


class _Tables(NamedTuple):
    missing: torch.Tensor  # [states]: bytes until the character is complete
    following: torch.Tensor  # [states, vocab]: the state after an id
    allowed: torch.Tensor  # [states, vocab]: whether an id may follow
    size: torch.Tensor  # [vocab]: bytes of the character that an id begins, 0 if it begins none


@functools.cache
def _tables(device: torch.device) -> _Tables:
    following = torch.full((len(_MISSING), VOCAB_SIZE), COMPLETE, device="cpu")
    allowed = torch.zeros(len(_MISSING), VOCAB_SIZE, dtype=torch.bool, device="cpu")
    size = torch.zeros(VOCAB_SIZE, dtype=torch.long, device="cpu")
    allowed[COMPLETE, :BYTE_OFFSET] = True
    for first, last, after in _LEADS:
        ids = slice(first + BYTE_OFFSET, last + BYTE_OFFSET + 1)
        following[:, ids] = after
        allowed[COMPLETE, ids] = True
        size[ids] = 1 + _MISSING[after]
    for state, (first, last, after) in _CONTINUATIONS.items():
        ids = slice(first + BYTE_OFFSET, last + BYTE_OFFSET + 1)
        following[state, ids] = after
        allowed[state, ids] = True
    missing = torch.tensor(_MISSING, device="cpu")
    return _Tables(*(table.to(device) for table in (missing, following, allowed, size)))


def utf8_state(ids: torch.Tensor) -> torch.Tensor:
    """The automaton's state after the last id of each row.

    Args:
        ids: `[..., n]`, n >= 0; padding, if any, on the left. Only the last 3 columns can matter and are read.

    Returns:
        `[...]`, one of the states `COMPLETE` .. `AFTER_F4`.
    """
    following = _tables(ids.device).following
    state = torch.full(ids.shape[:-1], COMPLETE, device=ids.device)
    for column in ids[..., -_LOOK_BACK:].unbind(-1):
        state = following[state, column]
    return state


def bytes_missing(state: torch.Tensor) -> torch.Tensor:
    """`[...]` states -> `[...]` bytes until the open character is complete, 0 .. 3."""
    return _tables(state.device).missing[state]


def allowed_ids(state: torch.Tensor, room: torch.Tensor | int | None = None) -> torch.Tensor:
    """The ids that may follow.

    Args:
        state: `[...]`.
        room: bytes that may still be written, one number or `[...]`; None for no limit. A byte that begins a character
            is allowed only where the whole character fits. The rest of an open character is always allowed, and so
            are special ids between characters: a row of the answer is never empty.

    Returns:
        `[..., vocab]` booleans. `<mask>` is False everywhere.
    """
    tables = _tables(state.device)
    allowed = tables.allowed[state]
    if room is None:
        return allowed
    # A row that is full already may end all the same.
    fits = room.clamp(min=0)[..., None] if isinstance(room, torch.Tensor) else max(room, 0)
    return allowed & (tables.size <= fits)


def valid_prefix(
    text_state: torch.Tensor, ids: torch.Tensor, lengths: torch.Tensor, room: torch.Tensor | int | None = None
) -> torch.Tensor:
    """How many ids of a draft keep the text valid UTF-8.

    Args:
        text_state: `[batch]`, the state of the text that the draft continues.
        ids: `[batch, r]`.
        lengths: `[batch]`, how many ids of each row count, 0 .. r.
        room: bytes that may still be written before the draft's first id, one number or `[batch]`; None for no
            limit. Every id takes one.

    Returns:
        `[batch]`, ids before the first that `allowed_ids` refuses, at most `lengths`. The last character may be open.
    """
    following = _tables(ids.device).following
    state, valid = text_state, torch.zeros_like(lengths)
    going = torch.ones_like(lengths, dtype=torch.bool)
    for i, column in enumerate(ids.unbind(1)):
        allowed = allowed_ids(state, None if room is None else room - i)
        going = going & (i < lengths) & allowed.gather(1, column[:, None])[:, 0]
        valid = valid + going
        state = following[state, column]
    return valid


def open_bytes(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """How many bytes at the end of each row belong to a character that is not complete.

    Args:
        ids: `[batch, n]`, right-padded.
        lengths: `[batch]`, ids per row, 0 .. n.

    Returns:
        `[batch]`, 0 .. 3.
    """
    columns = lengths[:, None] + torch.arange(_LOOK_BACK, device=ids.device)
    last = torch.nn.functional.pad(ids, (_LOOK_BACK, 0)).gather(1, columns)
    continues = (last >= 0x80 + BYTE_OFFSET) & (last <= 0xBF + BYTE_OFFSET)
    continuations = continues.long().flip(1).cumprod(1).sum(1)
    return torch.where(utf8_state(last) == COMPLETE, 0, 1 + continuations)


class FBLTUTF8LogitsProcessor(LogitsProcessor):
    """Sets to -inf the score of every id that would break UTF-8 or begin a character that does not fit.

    All of `max_length` can be used, and a text that fills it ends on a whole character. Give it to
    `generate(logits_processor=[...])`. Nothing is read back from the device.

    Args:
        max_length: columns that a finished text has at most, prompt and padding included, as in `generate`; None, or
            columns already at the limit, for no limit.

    Raises:
        ValueError: `max_length` is below 1; or, when called, scores are not over FBLT's vocabulary.
    """

    pure_in_prefix = True
    keeps_utf8 = True  # how decoding tells it from other processors, wherever its code was loaded from

    def __init__(self, max_length: int | None = None):
        if max_length is not None and max_length < 1:
            raise ValueError(f"`max_length` is {max_length}: give at least 1 column, or None for no limit.")
        self.max_length = max_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """`[batch, columns]` ids, left-padded, and `[batch, vocab]` scores -> `[batch, vocab]` scores."""
        if scores.shape[-1] != VOCAB_SIZE:
            raise ValueError(
                f"`scores` has {scores.shape[-1]} columns: give scores over FBLT's {VOCAB_SIZE} ids, in other "
                "vocabularies they stand for other bytes."
            )
        room = None if self.max_length is None else self.max_length - input_ids.shape[1]
        if room is not None and room < 1:
            room = None
        return scores.masked_fill(~allowed_ids(utf8_state(input_ids), room), -torch.inf)


__all__ = [
    "FBLTUTF8LogitsProcessor",
    "allowed_ids",
    "bytes_missing",
    "open_bytes",
    "utf8_state",
    "valid_prefix",
]
