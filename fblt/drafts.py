"""What `generate` writes, as it comes: a streamer that tells kept and corrected bytes apart, and bytes as text."""

import codecs
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from transformers.generation.streamers import BaseStreamer

from modeling_fblt.configuration_fblt import BYTE_OFFSET

BLANK, TAB = ord(" ") + BYTE_OFFSET, ord("\t") + BYTE_OFFSET
DEEPEST_INDENT = 6
SPECIAL = {0: "<pad>", 1: "", 2: "</s>", 3: "<reserved>", 260: "<mask>"}  # the `<s>` in front is not worth showing


class Kind(Enum):
    """Where a byte comes from; the value is how a legend names it."""

    PROMPT = "prompt"
    DRAFTED = "drafted"
    KEPT = "kept"
    CORRECTED = "corrected"
    WRITTEN = "not drafted"


def classify(draft: Sequence[int], new: Sequence[int]) -> list[Kind]:
    """Where each new byte comes from, given the draft (empty: none) that was pending when it came.

    Bytes that agree with the draft were kept, the first that differs corrects it. A byte after a wholly kept draft,
    or without any, is the next-byte head's own.
    """
    kinds = []
    for position, byte in enumerate(new):
        if position >= len(draft):
            kinds.append(Kind.WRITTEN)
        elif byte == draft[position] and Kind.CORRECTED not in kinds:
            kinds.append(Kind.KEPT)
        else:
            kinds.append(Kind.CORRECTED)
    return kinds


class DraftStreamer(BaseStreamer):
    """Collects what `generate` writes, with the origin of each byte. Shows the first row of a batch.

    `generate` calls `put` with the prompt, then in every round `put_draft`, if it drafted, and `put` with what stays.

    Args:
        on_change: called with the streamer after each call.
        pause: seconds to rest on a pending draft, so that an eye can see it.

    Attributes:
        ids, kinds: all bytes so far, prompt included, and where each comes from.
        draft: the pending draft.
        seconds: time spent in here, to be taken off when generation is timed.
    """

    def __init__(self, on_change: Callable[["DraftStreamer"], None] | None = None, pause: float = 0.0):
        self.on_change, self.pause = on_change, pause
        self.ids: list[int] = []
        self.kinds: list[Kind] = []
        self.draft: list[int] = []
        self.seconds = 0.0

    def put(self, value: torch.Tensor) -> None:
        """Takes the prompt `[batch, n]` at first, then new bytes `[n]`."""
        began = time.perf_counter()
        new = (value[0] if value.dim() > 1 else value).tolist()
        self.kinds += classify(self.draft, new) if self.ids else [Kind.PROMPT] * len(new)
        self.ids += new
        self.draft = []
        self._changed(began)

    def put_draft(self, value: torch.Tensor) -> None:
        """Takes the bytes `[n]` of a draft that is not judged yet."""
        began = time.perf_counter()
        self.draft = value.tolist()
        self._changed(began, self.pause)

    def end(self) -> None:
        """Nothing more comes."""

    def _changed(self, began: float, pause: float = 0.0) -> None:
        if self.on_change is not None:
            self.on_change(self)
            time.sleep(pause)
        self.seconds += time.perf_counter() - began


@dataclass
class Span:
    """Some bytes that show as text together: a character, or what stands for bytes that are none."""

    text: str
    kind: Kind
    starts_patch: bool


def spans(ids: list[int], kinds: Sequence[Kind], starts: Sequence[bool] | None = None) -> list[Span]:
    """Bytes as characters. A character counts as its last byte does, and starts a patch where any of its bytes does.

    A weak model's runs of blanks are to be seen: of spaces in a row all but the first show as dots, tabs deeper than
    any indent as arrows.

    Args:
        ids: token ids; bytes that are not UTF-8, also an unfinished character at the end, show as U+FFFD.
        kinds: where each comes from.
        starts: whether each starts a patch.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    found, begin = [], 0
    for i, token in enumerate(ids):
        if token in SPECIAL:
            text = decoder.decode(b"", final=True) + SPECIAL[token]
            decoder.reset()
        else:
            text = decoder.decode(bytes([token - BYTE_OFFSET]), final=i + 1 == len(ids))
            if i and token == ids[i - 1] == BLANK:
                text = "·"
            elif ids[max(i - DEEPEST_INDENT, 0) : i + 1] == [TAB] * (DEEPEST_INDENT + 1):
                text = "→   "
        if text:
            starts_patch = starts is not None and any(starts[begin : i + 1])
            found.append(Span(_printable(text), kinds[i], starts_patch))
            begin = i + 1
    return found


def _printable(text: str) -> str:
    """Text that is safe on a terminal: whatever could move the cursor or reorder text shows as U+FFFD."""
    unsafe = ("C", "Zl", "Zp")  # control, format, surrogate, private, unassigned; line and paragraph separators
    return "".join(
        c if c == "\n" else "    " if c == "\t" else "\ufffd" if unicodedata.category(c).startswith(unsafe) else c
        for c in text
    )
