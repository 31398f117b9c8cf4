"""Figures that can be read without the text beside them: what was measured, on what, and which way is better."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import FuncFormatter  # noqa: E402

COLORS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#718096")
NOTE = {"fontsize": 8, "color": "#4a5568"}


def bars(
    path: Path,
    title: str,
    labels: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    unit: str,
    note: str,
    reference: tuple[float, str] | None = None,
    digits: int = 1,
) -> None:
    """Horizontal bars, each with its value; the first label on top.

    Args:
        series: one bar per label and series; None leaves one out.
        unit: what the values are, and which way is better.
        note: below the figure, in small print: machine and settings.
        reference: a value to mark by a line, and what it is.
    """
    rows = len(labels)
    height = 0.8 / len(series)
    figure, axes = pyplot.subplots(figsize=(9, 1.8 + 0.32 * rows * max(1.0, 0.7 * len(series))))
    for index, (name, values) in enumerate(series.items()):
        places = [row + (index - (len(series) - 1) / 2) * height for row in range(rows)]
        shown = [0 if value is None else value for value in values]
        drawn = axes.barh(places, shown, height=height * 0.9, color=COLORS[index % len(COLORS)], label=name)
        texts = ["" if value is None else f"{value:.{digits}f}" for value in values]
        axes.bar_label(drawn, texts, padding=3, fontsize=9)
    if reference is not None:
        axes.axvline(reference[0], color="#1a202c", linewidth=1, linestyle="--", label=reference[1])
    axes.set_yticks(range(rows), labels)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(unit)
    handles, names = axes.get_legend_handles_labels()
    named = [pair for pair in zip(handles, names, strict=True) if len(series) > 1 or pair[1] not in series]
    if named:
        axes.legend(*zip(*named, strict=True), loc="best", fontsize=8, frameon=False)
    _finish(figure, [axes], title, note, path)


def lines(
    path: Path,
    title: str,
    panels: Sequence[tuple[str, str, bool, Mapping[str, tuple[Sequence[float], Sequence[float]]]]],
    along: str,
    note: str,
) -> None:
    """Panels side by side, the horizontal axis logarithmic.

    Args:
        panels: heading, unit of the vertical axis, whether that is logarithmic too or begins at 0, and per line its
            horizontal and vertical values. Lines whose name ends in `(formula)` are dashed.
        along: what the horizontal axis is.
    """
    figure, all_axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 4.4), squeeze=False)
    for axes, (heading, unit, logarithmic, drawn) in zip(all_axes[0], panels, strict=True):
        colors: dict[str, str] = {}
        for name, (across, values) in drawn.items():
            measured = name.removesuffix(" (formula)")
            color = colors.setdefault(measured, COLORS[len(colors) % len(COLORS)])
            style = {"linestyle": "--", "marker": ""} if name != measured else {"marker": "o"}
            axes.plot(across, values, label=name, color=color, **style)
            axes.set_xticks(across, [_short(x) for x in across])
        axes.set_xscale("log", base=2)
        axes.set_xticks(across, [_short(x) for x in across])
        axes.minorticks_off()
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        else:
            axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        axes.set_title(heading, fontsize=10)
        axes.set_xlabel(along)
        axes.set_ylabel(unit)
        axes.grid(axis="y", color="#e2e8f0")
        axes.legend(fontsize=8, frameon=False)
    _finish(figure, all_axes[0], title, note, path)


def _short(value: float) -> str:
    return f"{value / 1024:g}k" if value >= 1024 and value % 1024 == 0 else f"{value:g}"


def _finish(figure: Figure, all_axes: Sequence[Axes], title: str, note: str, path: Path) -> None:
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.text(0.01, 0.01, note, ha="left", va="bottom", wrap=True, **NOTE)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, dpi=150, format="png")
    partial.replace(path)
    pyplot.close(figure)
