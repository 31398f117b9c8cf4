"""Draws the decodings at work as an animated SVG: drafts appear, and are kept, corrected or taken back.

\b
    make picture
    python examples/animation.py --prompt "In the beginning"
    python examples/animation.py --text "wahlen sie die gewunschte kategorie"    # a damaged line is restored

Every decoding writes by itself, one after the other, on one thread. The picture then shows them side by side, at the
processor time that each byte took, slowed down. So a busy machine gives the same picture as a quiet one.
"""

import sys
import time
from dataclasses import dataclass, field
from html import escape
from itertools import groupby
from pathlib import Path

import click
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script also runs without the repository being installed

from examples.demo import DAMAGED, DECODINGS, DEMO, NEED_BLOCKS, RESTORER, WARM_UP_BYTES, load  # noqa: E402
from fblt.commands import Command  # noqa: E402
from fblt.drafts import DraftStreamer, Kind, spans  # noqa: E402
from fblt.files import write_text_atomically  # noqa: E402
from fblt.restoring import prompt_of, room_for  # noqa: E402

COLUMNS, ROWS = 84, 3  # characters of a line, lines of a panel
CELL, LINE, HEAD, GAP = 9.0, 20, 26, 14  # pixels
CLASSES = {Kind.PROMPT: "p", Kind.DRAFTED: "d", Kind.KEPT: "k", Kind.CORRECTED: "c", Kind.WRITTEN: "w"}
STYLE = """
text{font:15px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#1a202c;white-space:pre}
.t{font-weight:bold}.s{font-size:12px;fill:#64748b}.paper{fill:#fff;stroke:#d6dce5}
.p{fill:#64748b}.k{fill:#15803d}.c{fill:#c81e1e;font-weight:bold}.w{fill:#1d4ed8}.d{fill:#a16207;font-style:italic}
@media(prefers-color-scheme:dark){text{fill:#e2e8f0}.paper{fill:#0d1117;stroke:#30363d}.s,.p{fill:#94a3b8}
.k{fill:#86efac}.c{fill:#fca5a5}.w{fill:#93c5fd}.d{fill:#fde68a}}"""


@dataclass
class Moment:
    """What is known at a time.

    Attributes:
        seconds: since the generation began.
        ids, kinds: all bytes, and where each comes from.
        draft: the pending draft.
    """

    seconds: float
    ids: list[int]
    kinds: list[Kind]
    draft: list[int]


@dataclass
class Panel:
    """One decoding: its moments, what is told of it, and the processor time it took."""

    title: str
    moments: list[Moment] = field(default_factory=list)
    told: str = ""
    seconds: float = 0.0


def record(model, inputs, title: str, decoding: str, settings: dict, seed: int) -> Panel:
    """Lets a decoding write, and notes every draft and every byte with the processor time up to it."""
    panel, spent = Panel(title), 0.0

    def note(streamer: DraftStreamer) -> None:
        nonlocal spent
        now = time.process_time()
        panel.moments.append(
            Moment(now - began - spent, list(streamer.ids), list(streamer.kinds), list(streamer.draft))
        )
        spent += time.process_time() - now

    model.generate(**inputs, **settings | {"decoding": decoding, "max_new_tokens": WARM_UP_BYTES})
    torch.manual_seed(seed)
    began = time.process_time()
    output = model.generate(
        **inputs, **settings, decoding=decoding, streamer=DraftStreamer(note), return_dict_in_generate=True
    )
    seconds = time.process_time() - began - spent
    written = output.sequences.shape[1] - inputs["input_ids"].shape[1]
    rounds = int(output.iterations)
    panel.told = f"{written} bytes in {rounds} rounds, {written / rounds:.1f} each"
    panel.seconds = seconds
    return panel


def cells(moment: Moment) -> list[tuple[int, int, str, str]]:
    """What a moment shows: line, column, character and class of every cell that is not blank."""
    kinds = moment.kinds + [Kind.DRAFTED] * len(moment.draft)
    line = column = 0
    found = []
    for span in spans(moment.ids + moment.draft, kinds):
        for character in span.text.replace("\n", "↵\n"):
            if character == "\n" or column == COLUMNS:
                line, column = line + 1, 0
            if character != "\n":
                found.append((line, column, character, CLASSES[span.kind]))
                column += 1
    return [cell for cell in found if cell[0] < ROWS]


def lifetimes(moments: list[Moment]) -> list[tuple[tuple[int, int, str, str], float, float | None]]:
    """Every cell with the time that it appears and the time that it goes; None: it stays."""
    since: dict[tuple[int, int, str, str], float] = {}
    found = []
    for moment in moments:
        shown = set(cells(moment))
        for cell in [cell for cell in since if cell not in shown]:
            found.append((cell, since.pop(cell), moment.seconds))
        for cell in shown - since.keys():
            since[cell] = moment.seconds
    return found + [(cell, start, None) for cell, start in since.items()]


def animated_svg(panels: list[Panel], caption: str, slower: float, rest: float) -> str:
    """The picture: a panel for each decoding, all starting at once, over and over.

    Args:
        caption: below the panels.
        slower: how many times slower than it happened.
        rest: seconds that the finished texts stay.
    """
    width, height = COLUMNS * CELL + 24, HEAD + ROWS * LINE + 12
    whole = max(panel.moments[-1].seconds for panel in panels) * slower + rest
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width + 20:.0f} '
        f'{(height + GAP) * len(panels) + 34:.0f}" role="img"><title>{escape(caption)}</title><style>{STYLE}\n</style>',
        # What all other times refer to: it begins anew when it has ended.
        f'<rect width="0" height="0"><animate id="l" attributeName="x" from="0" to="0" dur="{whole:.2f}s" '
        'begin="0s;l.end"/></rect>',
    ]
    for number, panel in enumerate(panels):
        top = 10 + number * (height + GAP)
        parts.append(f'<rect class="paper" x="10" y="{top}" width="{width:.0f}" height="{height}" rx="8"/>')
        parts.append(f'<text class="t" x="20" y="{top + 20}">{escape(panel.title)}</text>')
        parts.append(
            f'<text class="s" x="{width:.0f}" y="{top + 20}" text-anchor="end">{escape(panel.told)}'
            f"{_hidden_until(panel.moments[-1].seconds * slower)}</text>"
        )
        parts += _texts(panel.moments, top + HEAD, slower)
    parts.append(f'<text class="s" x="20" y="{(height + GAP) * len(panels) + 24}">{escape(caption)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _texts(moments: list[Moment], top: float, slower: float) -> list[str]:
    """Cells beside each other that come and go together, as one element each."""
    found = sorted(lifetimes(moments), key=lambda life: (life[1], life[2] or 1e9, life[0]))
    parts = []
    for (start, end, line, kind), group in groupby(found, key=lambda life: (life[1], life[2], life[0][0], life[0][3])):
        group = list(group)
        while group:
            count = 1
            while count < len(group) and group[count][0][1] == group[0][0][1] + count:
                count += 1
            run, group = group[:count], group[count:]
            shown = "".join(life[0][2] for life in run)
            if not shown.strip():
                continue
            timing = _hidden_until(start * slower) if end is None else _shown(start * slower, end * slower)
            hidden = "" if end is None else ' visibility="hidden"'
            parts.append(
                f'<text class="{kind}" x="{20 + run[0][0][1] * CELL:.0f}" y="{top + 16 + line * LINE:.0f}"{hidden} '
                f'textLength="{count * CELL:.0f}" xml:space="preserve">{escape(shown)}{timing}</text>'
            )
    return parts


def _hidden_until(seconds: float) -> str:
    """Without animation an element stays visible: then the picture shows the finished texts."""
    return f'<set attributeName="visibility" to="hidden" begin="l.begin" dur="{max(seconds, 0.01):.2f}s"/>'


def _shown(start: float, end: float) -> str:
    span = max(end - start, 0.01)
    return f'<set attributeName="visibility" to="visible" begin="l.begin+{start:.2f}s" dur="{span:.2f}s"/>'


@click.command(cls=Command, help=__doc__)
@click.option("--prompt", default="It was a cold evening, and", show_default=True, metavar="TEXT")
@click.option(
    "--text",
    is_flag=False,
    flag_value=DAMAGED[0],
    metavar="LINE",
    help="Restore this damaged line, or the demo's first, greedily, instead of writing on from a prompt.",
)
@click.option("--model", metavar="PATH", help="Checkpoint folder.  [default: the bundled one for the task]")
@click.option("--max-new-bytes", type=click.IntRange(min=1), default=160, show_default=True)
@click.option("--temperature", type=click.FloatRange(min=0), default=0.7, show_default=True, help="0: greedy.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--slower", type=click.FloatRange(min=0, min_open=True), default=6.0, show_default=True, help="Times.")
@click.option("--rest", type=click.FloatRange(min=0), default=4.0, show_default=True, help="Seconds at the end.")
@click.option("--output", metavar="PATH", help="[default: decodings.svg or restoring.svg in docs/images]")
def main(
    prompt: str,
    text: str | None,
    model: str | None,
    max_new_bytes: int,
    temperature: float,
    seed: int,
    slower: float,
    rest: float,
    output: str | None,
) -> None:
    if text is not None:
        prompt, temperature = prompt_of(text), 0
        max_new_bytes = room_for(prompt.encode())
    model = model or str(DEMO if text is None else RESTORER)
    output = output or str(ROOT / "docs" / "images" / ("decodings.svg" if text is None else "restoring.svg"))
    if Path(output).suffix != ".svg":
        raise ValueError(f"--output {output}: give a name that ends in .svg")
    torch.set_num_threads(1)
    network, tokenizer = load(model)
    inputs = tokenizer(prompt, return_tensors="pt").to(network.device)
    settings = {"max_new_tokens": max_new_bytes, "do_sample": temperature > 0, "valid_utf8": True}
    settings |= {"temperature": temperature} if temperature else {}
    panels = [
        record(network, inputs, f"{decoding}: {words}", decoding, settings, seed)
        for decoding, words in DECODINGS.items()
        if network.config.block_size is not None or decoding not in NEED_BLOCKS
    ]
    drawn = f"sampled at {temperature:g}, seed {seed}" if temperature else "greedy"
    caption = f"{Path(model).name}, {drawn}, float32, processor time of one thread, {slower:g} times slower"
    write_text_atomically(output, animated_svg(panels, caption, slower, rest))
    for panel in panels:
        click.echo(f"{panel.title}: {panel.told}, {panel.seconds:.2f} seconds")


if __name__ == "__main__":
    main()
