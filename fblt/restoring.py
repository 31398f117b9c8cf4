"""Restoring text line by line: what of a line a model is given, and what it gives back. All else stays as it is.

A line that is no UTF-8, that holds control characters or that has no letter is left alone. Around the text, blanks and
line ends are kept, as are tabs within it. Text longer than the lines that models are trained on is cut at ends of
sentences; where there are none, at commas and the like, at blanks, or wherever it is too long.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence

from .batches import Journal, bytes_of, run_batches, stop_ids, write

LONGEST = 200  # bytes that a model is given at a time: the longest lines of its training
# Restoring lengthens a line by its accents' second and third bytes and by punctuation.
ROOM_FACTOR, ROOM_BYTES = 2, 24

_TABS = re.compile(r"(\s*[\t\r\v\f]\s*)")
# Where to cut, in the order of preference; each match ends where a piece may.
_CUTS = tuple(re.compile(rf"{before}(?=\s)") for before in (r"[.!?…][\"”»’')\]]*", r"[,;:–—]", r"\S"))
_BLANKS = re.compile(r"\s*")


def prompt_of(damaged: str) -> str:
    """What a model is given: the damaged line and a newline."""
    return damaged + "\n"


def room_for(prompt: bytes) -> int:
    """How many bytes a restoration may have, `</s>` included."""
    return ROOM_FACTOR * (len(prompt) + 1) + ROOM_BYTES


def segments(line: bytes) -> list[bytes | str]:
    """A line in parts: text to restore, and bytes between that stay as they are. Joined they are the line."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return [line]
    parts: list[bytes | str] = []
    for cell in _TABS.split(text):
        core = cell.strip()
        if not any(map(str.isalpha, core)) or _has_controls(core):
            parts.append(cell.encode())
            continue
        start = cell.index(core)
        parts += [cell[:start].encode(), *_pieces(core), cell[start + len(core) :].encode()]
    return [part for part in parts if part]


def _has_controls(text: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in text)


def _pieces(text: str) -> Iterator[bytes | str]:
    """Pieces of at most `LONGEST` bytes, and the blanks between them, as bytes."""
    start = 0
    while start < len(text):
        end = start + len(text[start : start + LONGEST].encode()[:LONGEST].decode(errors="ignore"))
        if end < len(text):
            # A cut at the very end of the window is seen by the blank after it.
            found = (list(cut.finditer(text, start, end + 1)) for cut in _CUTS)
            end = next((matches[-1].end() for matches in found if matches), end)
        yield text[start:end]
        start = _BLANKS.match(text, end).end()
        yield text[end:start].encode()


def accepted(ids: Sequence[int], room: int, stops: set[int]) -> str | None:
    """The restoration that a model wrote; None where it is none: without an end in `room` ids, or no line of text."""
    if len(ids) > room or not ids or ids[-1] not in stops:
        return None
    try:
        text = bytes_of(ids).decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if not text.strip() or _has_controls(text) else text


def restore_pieces(
    model,
    pieces: Sequence[str],
    rows: int,
    settings: Mapping,
    journal: Journal | None = None,
    label: str | None = None,
) -> list[str | None]:
    """A model's restorations, see [`accepted`], greedily.

    Args:
        rows: of a batch.
        settings: of `generate`, such as `{"decoding": "ar"}`.
        journal, label: see [`run_batches`].
    """
    prompts, stops = [prompt_of(piece).encode() for piece in pieces], stop_ids(model)

    def compute(number: int, batch: list[int]) -> list[str | None]:
        given = [prompts[index] for index in batch]
        room = max(map(room_for, given))
        written, _ = write(model, given, max_new_tokens=room, do_sample=False, **settings)
        return [accepted(ids, room_for(prompt), stops) for ids, prompt in zip(written, given, strict=True)]

    return run_batches(prompts, rows, compute, journal, label)


def restore_text(data: bytes, restore: Callable[[list[str]], list[str | None]]) -> tuple[bytes, dict[str, int]]:
    """A text of many lines with each restored; a piece that stands in it several times is restored once.

    Args:
        restore: restorations of pieces, None where there is none: these stay as they are.

    Returns:
        The text, with as many lines; and counts of `lines`, `pieces` that were given to `restore`, of these `kept` as
        they were for want of a restoration, and `left_alone`, lines with something in them that were not given to it.
    """
    lines = [segments(line) for line in data.split(b"\n")]
    pieces = list(dict.fromkeys(part for line in lines for part in line if isinstance(part, str)))
    restored = dict(zip(pieces, restore(pieces), strict=True))
    out = b"\n".join(
        b"".join(part if isinstance(part, bytes) else (restored[part] or part).encode() for part in line)
        for line in lines
    )
    untouched = sum(b"".join(line).strip() != b"" for line in lines if all(isinstance(part, bytes) for part in line))
    return out, {
        "lines": data.count(b"\n") + (not data.endswith(b"\n") and data != b""),
        "pieces": len(pieces),
        "kept": sum(text is None for text in restored.values()),
        "left_alone": untouched,
    }
