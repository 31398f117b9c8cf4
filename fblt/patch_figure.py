"""Patches as a figure, SVG or PNG: lines of text with a bar of entropy over every byte.

A character that matplotlib's font lacks is drawn as a box; the HTML page shows whatever its reader has fonts for.
"""

import io
import warnings

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

from .patch_html import LIGHT, VISIBLE, scale  # noqa: E402
from .patches import Patches, characters  # noqa: E402

COLUMNS = 64
FONTS = {"font.family": ["DejaVu Sans Mono", "monospace"], "svg.fonttype": "path", "svg.hashsalt": "fblt"}
GROUNDS = ("#e6effa", "#e3f4ea")


def patches_figure(patches: Patches, title: str, form: str) -> bytes:
    """The figure's file, in the format `form`: `svg` or `png`. The same patches give the same SVG."""
    lines = [range(i, min(i + COLUMNS, len(patches.content))) for i in range(0, len(patches.content), COLUMNS)]
    with pyplot.rc_context(FONTS), warnings.catch_warnings():
        figure, all_axes = pyplot.subplots(
            len(lines), figsize=(10.4, 0.75 + 0.95 * len(lines)), squeeze=False, layout="constrained"
        )
        figure.suptitle(f"{_literal(title)}: {patches.summary}", fontsize=10, color=LIGHT["ink"])
        if patches.entropies is not None:
            told = f"bars: entropy before each byte, in nats; above the threshold of {patches.threshold:.2f} (dashed)"
            figure.supxlabel(f"{told} a patch starts", fontsize=8, color=LIGHT["line"])
        for axes, line in zip(all_axes[:, 0], lines, strict=True):
            _line(axes, patches, line)
        content = io.BytesIO()
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(content, format=form, dpi=130, metadata={"Date": None} if form == "svg" else None)
        pyplot.close(figure)
    return content.getvalue()


def _line(axes: Axes, patches: Patches, line: range) -> None:
    """Draws the bytes of one line: grounds of patches, bars, characters below."""
    highest = scale(patches)
    for number, (start, end) in enumerate(
        zip(patches.starts, [*patches.starts[1:], len(patches.content)], strict=True)
    ):
        left, right = max(start, line.start), min(end, line.stop)
        if left < right:
            axes.axvspan(left - line.start, right - line.start, color=GROUNDS[number % 2], linewidth=0)
        if start in line:
            axes.axvline(start - line.start, color=LIGHT["line"], linewidth=0.6)
    if patches.entropies is not None:
        heights = [patches.entropies[i] for i in line]
        colours = [LIGHT["over"] if height > patches.threshold else LIGHT["bar"] for height in heights]
        axes.bar([i - line.start + 0.5 for i in line], heights, width=0.86, color=colours)
        axes.hlines(patches.threshold, 0, len(line), color=LIGHT["line"], linewidth=0.8, linestyle="--")
    for character in characters(patches.content):
        if character.start in line:
            middle = (character.start + min(character.end, line.stop)) / 2 - line.start
            shown = _literal(VISIBLE.get(character.text, character.text))
            colour = LIGHT["dim"] if character.text in VISIBLE else LIGHT["ink"]
            axes.text(middle, -0.05 * highest, shown, ha="center", va="top", fontsize=10, color=colour)
    axes.set(xlim=(0, COLUMNS), ylim=(0, highest))
    axes.set_xticks([])
    axes.tick_params(axis="y", labelsize=7, colors=LIGHT["line"], length=2)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    if patches.entropies is None:
        axes.set_yticks([])


def _literal(text: str) -> str:
    """Text that matplotlib takes for no formula."""
    return text.replace("$", r"\$")
