"""The trade-off as tables, and as figures laid out as the paper's: score against calls and traffic."""

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from .harness import build_table, number, summary_of  # noqa: E402
from .plots import COLORS, NOTE  # noqa: E402

MARKERS = {"ar": "*", "blt-s": "s", "blt-d": "o", "blt-dv": "^"}
METHODS = {"AR": "ar", "BLT-S": "blt-s", "BLT-D": "blt-d", "BLT-DV": "blt-dv"}  # the paper's names
ALONG = {
    "decoder_calls": "decoder calls a byte",
    "global_calls": "global calls a byte",
    "traffic_mb": "MB of weights read a byte (Eq. 8)",
}
PAPER_SHOWN = "3B"


def print_results(results: dict, console: Console) -> None:
    """Every figure of every task, the paper's beside them, and the answers."""
    caption = summary_of(results["machine"], results["dtype"], results["clock"])
    for task, found in results["tasks"].items():
        table = build_table(
            f"{task}: {found['score']} of {found['lines']} held-out lines, one seed",
            "model, decoding",
            *(found["score"], "+-", "dec/B", "enc/B", "glob/B", "head/B", "MB/B", "to ar", "x ar", "equal"),
            caption=caption,
        )
        for name in dict.fromkeys(row["model"] for row in found["rows"]):
            own = [row for row in found["rows"] if row["model"] == name]
            for row in own:
                table.add_row(
                    f"{name}, {row['decoding']}",
                    number(row["score"]),
                    number(row["error"]),
                    *(number(row[f"{part}_calls"], 3) for part in ("decoder", "encoder", "global", "draft_head")),
                    number(row["traffic_mb"]),
                    f"{row['traffic_mb'] / own[0]['traffic_mb']:.0%}",
                    number(row["speed_to_ar"]),
                    f"{row['equal_to_ar']:.0%}",
                )
            table.add_section()
        console.print(table)
        for answer in found["answers"]:
            console.print(f"{answer['answer'].upper()}: {answer['claim']}", markup=False, highlight=False)
            for line in answer["figures"]:
                console.print(f"    {line}", markup=False, highlight=False)
    console.print(paper_table(results["paper"]))


def paper_table(rows: Sequence[dict]) -> Table:
    headings = ("BLEU", "of BLT", "dec/B", "glob/B", "MB/B", "to ar")
    table = build_table("The paper's translations (FLORES-101)", "model, decoding", *headings)
    for size, task in dict.fromkeys((row["size"], row["task"]) for row in rows):
        own = [row for row in rows if (row["size"], row["task"]) == (size, task)]
        for row in own:
            table.add_row(
                f"{size} {task}, {row['model']}, {row['method']} {row['setting']}",
                number(row["score"]),
                f"{row['score'] / own[0]['score']:.1%}",
                number(row["decoder_calls"], 3),
                number(row["global_calls"], 3),
                number(row["traffic_mb"], 0),
                f"{row['traffic_mb'] / own[0]['traffic_mb']:.0%}",
            )
        table.add_section()
    return table


def draw(results: dict, path: Path) -> None:
    """A row of panels for each task, score against each cost, and one for the paper's French to English."""
    paper = [row for row in results["paper"] if row["size"] == PAPER_SHOWN and row["task"] == "fr-en"]
    panels = [(f"{task}: {found['score']}", ours(found["rows"])) for task, found in results["tasks"].items()]
    panels.append((f"the paper, {PAPER_SHOWN} fr-en: BLEU", theirs(paper)))
    figure, axes = pyplot.subplots(len(panels), len(ALONG), figsize=(13, 3.6 * len(panels)), squeeze=False)
    for line, (heading, points) in zip(axes, panels, strict=True):
        for place, (key, label) in zip(line, ALONG.items(), strict=True):
            scatter(place, points, key)
            place.set(xlabel=label, ylabel=heading)
        line[-1].legend(fontsize=7, frameon=False, bbox_to_anchor=(1, 1), loc="upper left")
    figure.suptitle("What a text is worth against what it costs; up and left is better", x=0.01, ha="left", fontsize=11)
    note = summary_of(results["machine"], results["dtype"], results["clock"])
    figure.text(0.01, 0.005, f"{note}; markers: " + ", ".join(f"{m} {n}" for n, m in MARKERS.items()), **NOTE)
    figure.tight_layout(rect=(0, 0.02, 1, 0.98))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, format="png")
    pyplot.close(figure)


def ours(rows: Sequence[dict]) -> list[tuple[str, str, dict]]:
    """Model, kind of decoding and figures of each row; the base and the BLT after it are alike, so one is shown."""
    return [(row["model"], row["decoding"].split()[0], row) for row in rows if row["model"] != "base"]


def theirs(rows: Sequence[dict]) -> list[tuple[str, str, dict]]:
    return [(row["model"].lower(), METHODS[row["method"]], row) for row in rows]


def way_of(row: dict) -> str:
    """A decoding without its last number: what a line connects differs in that alone."""
    return re.sub(r"[\d.]+$", "", row["decoding"] if "decoding" in row else f"{row['method']} {row['setting']}")


def scatter(axes: Axes, points: Sequence[tuple[str, str, dict]], along: str) -> None:
    """Points of one panel: a colour for each model, a marker for each kind of decoding, a line for each way."""
    names = list(dict.fromkeys(name for name, _, _ in points))
    lines: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for name, kind, row in points:
        lines.setdefault((name, kind, way_of(row)), []).append((row[along], row["score"]))
    told = set()  # the legend has each model and kind once
    for (name, kind, _), line in sorted(lines.items(), key=lambda item: names.index(item[0][0])):
        across, scores = zip(*sorted(line), strict=True)
        label = None if (name, kind) in told else f"{name}, {kind}"
        told.add((name, kind))
        style = {"marker": MARKERS[kind], "color": COLORS[names.index(name) % len(COLORS)]}
        axes.plot(across, scores, label=label, linewidth=0.7, markersize=5, **style)
    axes.grid(color="#e2e8f0")
    axes.spines[["top", "right"]].set_visible(False)
