"""What the demo shows: two ways to show what the decodings write, with and without a terminal's colours."""

import io
from collections.abc import Sequence
from contextlib import contextmanager
from itertools import groupby

from rich import box
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fblt.drafts import DraftStreamer, Kind, spans

PLAIN_WIDTH = 92
PICTURE_WIDTH = 100
STYLES = {
    Kind.PROMPT: "bold",
    Kind.DRAFTED: "italic yellow",
    Kind.KEPT: "green",
    Kind.CORRECTED: "bold white on red",  # a background, because the byte is often a blank
    Kind.WRITTEN: "cyan",
}


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
        parts.append((shown, STYLES[span.kind] + ground))
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
        console.print(Text("  ").join(Text(kind.value, style) for kind, style in STYLES.items()))

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
