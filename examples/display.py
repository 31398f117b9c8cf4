"""What the demo shows: a streamer that tells drafted, kept and corrected bytes apart, and two ways to show them."""

import codecs
import io
import time
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from itertools import groupby

import torch
from rich import box
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from transformers.generation.streamers import BaseStreamer

BYTE_OFFSET = 4
BLANK, TAB = ord(" ") + BYTE_OFFSET, ord("\t") + BYTE_OFFSET
DEEPEST_INDENT = 6
SPECIAL = {0: "<pad>", 1: "", 2: "</s>", 3: "<reserved>", 260: "<mask>"}  # the `<s>` in front is not worth showing
PLAIN_WIDTH = 92
PICTURE_WIDTH = 100


class Kind(Enum):
    """Where a byte comes from; the value is its style on a terminal."""

    PROMPT = "bold"
    DRAFTED = "italic yellow"
    KEPT = "green"
    CORRECTED = "bold white on red"  # a background, because the byte is often a blank
    WRITTEN = "cyan"


LEGEND = {
    Kind.PROMPT: "prompt",
    Kind.DRAFTED: "drafted",
    Kind.KEPT: "kept",
    Kind.CORRECTED: "corrected",
    Kind.WRITTEN: "not drafted",
}


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


def styled(streamer: DraftStreamer, starts: Sequence[bool] | None = None) -> Text:
    """The text so far in colours and the pending draft after it; with `starts`, every other patch on a grey ground."""
    parts: list[tuple[str, str]] = []
    shaded = True
    ids = streamer.ids + streamer.draft
    for span in spans(ids, streamer.kinds + [Kind.DRAFTED] * len(streamer.draft), starts):
        shaded = shaded != span.starts_patch
        # A corrected line break would be invisible.
        shown = span.text.replace("\n", "↵\n") if span.kind is Kind.CORRECTED else span.text
        ground = " on grey30" if starts is not None and shaded and span.kind is not Kind.CORRECTED else ""
        parts.append((shown, span.kind.value + ground))
    text = Text(overflow="fold")
    for style, run in groupby(parts, key=lambda part: part[1]):
        text.append("".join(shown for shown, _ in run), style)
    return text


def plain(streamer: DraftStreamer, starts: Sequence[bool] | None = None) -> str:
    """The text in lines of at most `PLAIN_WIDTH` columns; a bar in front of every patch if `starts` is given."""
    text = "".join("|" * span.starts_patch + span.text for span in spans(streamer.ids, streamer.kinds, starts))
    lines = [part for line in text.split("\n") for part in (chop_cells(line, PLAIN_WIDTH) or [""])]
    return "\n".join(line.rstrip() for line in lines)


class PlainDisplay:
    """Shows finished texts and the table without colours or control characters."""

    @contextmanager
    def writing(self, title: str):
        """Gives the streamer for one generation."""
        yield DraftStreamer()

    def heading(self, text: str) -> None:
        print(f"\n=== {text}")

    def written(self, title: str, summary: str, streamer: DraftStreamer, starts: Sequence[bool] | None) -> None:
        """Shows a finished text; `starts` `[bytes]` marks patches."""
        print(f"\n--- {title} ({summary})")
        print("\n".join(f"    {line}".rstrip() for line in plain(streamer, starts).split("\n")), flush=True)

    def table(self, heads: list[str], rows: list[tuple[str, list[str]]], notes: list[str]) -> None:
        """Shows one column per decoding, and the notes below."""
        width = max(cell_len(label) for label, _ in rows)
        print()
        for label, cells in [("", heads), *rows]:
            print((label.ljust(width) + "".join(cell.rjust(11) for cell in cells)).rstrip())
        print()
        for note in notes:
            lines = Text(note).wrap(Console(width=PLAIN_WIDTH, file=io.StringIO()), PLAIN_WIDTH)
            print("\n".join(line.plain.rstrip() for line in lines))


class RichDisplay:
    """Shows texts in colours, growing round by round, then the table.

    Args:
        console: a terminal; or one that records, where nothing grows, for `Console.save_svg`.
        pause: seconds to rest on each pending draft.
    """

    def __init__(self, console: Console, pause: float = 0.05):
        self.console, self.pause = console, pause
        console.print(Text("  ").join(Text(name, kind.value) for kind, name in LEGEND.items()))

    @contextmanager
    def writing(self, title: str):
        """Gives the streamer for one generation, and shows the text while it grows."""
        # Drawn from the streamer alone: a refresh thread would compete with the model for the processor.
        with Live(console=self.console, auto_refresh=False, transient=True, vertical_overflow="crop") as live:

            def draw(streamer: DraftStreamer) -> None:
                live.update(self._panel(title, "", self._tail(styled(streamer))), refresh=True)

            yield DraftStreamer(draw, self.pause)

    def heading(self, text: str) -> None:
        self.console.print(Text(f"\n{text}", "bold"))

    def written(self, title: str, summary: str, streamer: DraftStreamer, starts: Sequence[bool] | None) -> None:
        """Shows a finished text for good; `starts` `[bytes]` marks patches."""
        self.console.print(self._panel(title, summary, styled(streamer, starts)))

    def table(self, heads: list[str], rows: list[tuple[str, list[str]]], notes: list[str]) -> None:
        """Shows one column per decoding, and the notes below."""
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column("")
        for head in heads:
            table.add_column(head, justify="right")
        for label, cells in rows:
            table.add_row(Text(label), *(Text(cell, _verdict(cell)) for cell in cells))
        self.console.print(table, *(Text(note, "dim") for note in notes), sep="\n")

    def _tail(self, text: Text) -> Text:
        """The last lines of a growing text, as many as the terminal can redraw."""
        room = max(self.console.height - 4, 1)
        lines = text.wrap(self.console, max(self.console.width - 4, 1))
        return Text("\n").join(lines[-room:])

    @staticmethod
    def _panel(title: str, summary: str, text: Text) -> Panel:
        return Panel(
            text,
            title=Text(title),
            title_align="left",
            subtitle=Text(summary),
            subtitle_align="right",
            border_style="dim",
        )


def _verdict(cell: str) -> str:
    return {"yes": "bold green", "no": "bold red"}.get(cell, "")


class Several:
    """Several displays as one: the first shows texts while they grow, all show them when finished."""

    def __init__(self, *displays: PlainDisplay | RichDisplay):
        self.displays = displays

    def writing(self, title: str):
        return self.displays[0].writing(title)

    def heading(self, text: str) -> None:
        for display in self.displays:
            display.heading(text)

    def written(self, title: str, summary: str, streamer: DraftStreamer, starts: Sequence[bool] | None) -> None:
        for display in self.displays:
            display.written(title, summary, streamer, starts)

    def table(self, heads: list[str], rows: list[tuple[str, list[str]]], notes: list[str]) -> None:
        for display in self.displays:
            display.table(heads, rows, notes)


def recording_console() -> Console:
    """A console that shows nothing and keeps all, for `Console.save_svg`."""
    return Console(
        record=True,
        width=PICTURE_WIDTH,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        no_color=False,
    )
