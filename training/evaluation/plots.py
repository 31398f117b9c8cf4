"""The evaluation as one picture: where drafts go wrong, what is kept of them, what each decoding costs."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

from fblt.files import appearing_file  # noqa: E402

from .drafts import kinds_of  # noqa: E402

COLOURS = {
    "ar": "#555555",
    "blt-s": "#1f77b4",
    "blt-d": "#d98c00",
    "blt-dv": "#2a8a3c",
    "one_step": "#2a8a3c",
    "head": "#8a2a7c",
    "refined_1": "#c2185b",
    "refined_2": "#e57399",
}

LABELS = {
    "one_step": "block, one step",
    "head": "block, draft head",
    "refined_1": "block, one pass more",
    "refined_2": "block, two passes more",
    "blt-s": "decoder's own draft (blt-s)",
    "ar": "plain decoding",
}


COSTS = {"decoder_calls_per_byte": "decoder calls per byte", "traffic_mb_per_byte": "MB of weights read per byte"}
QUALITIES = {"bits_per_byte": "bits per byte, its own next-byte head", "known_words": "share of words in training text"}
MARKERS = {"greedy": "o", "0.7": "^", "1.0": "s"}


def plot_evaluation(evaluation: dict, path: str | Path) -> None:
    """Draws `evaluate`'s result into a PNG file."""
    figure, axes = plt.subplots(4, 2, figsize=(11, 16), layout="constrained")
    _accuracy(axes[0, 0], evaluation["drafts"])
    _leading(axes[0, 1], evaluation["drafts"])
    _kept(axes[1, 0], evaluation["writing"])
    _calls(axes[1, 1], evaluation["writing"])
    for row, quality in zip(axes[2:], ("bits_per_byte", "known_words"), strict=True):
        for axis, cost in zip(row, COSTS, strict=True):
            _quality(axis, evaluation["quality"], quality, cost)
    bits = evaluation["next_byte"]["all"]["bits_per_byte"]
    figure.suptitle(f"{evaluation['settings']['model']}: {bits:.2f} bits per byte of held-out text")
    with appearing_file(path) as partial:
        figure.savefig(partial, dpi=130)
    plt.close(figure)


def _accuracy(axis, drafts: dict) -> None:
    offsets = range(1, drafts["block_size"])
    for kind in kinds_of(drafts)[:-1]:
        accuracy = drafts[kind]["accuracy_by_offset"]
        axis.plot(offsets, accuracy["all"], marker="o", color=COLOURS[kind], label=LABELS[kind])
        axis.plot(
            offsets, accuracy["non_blank"], linestyle="--", color=COLOURS[kind], label="the same, non-blank bytes"
        )
    axis.set(title="Real text: accuracy by distance from the known byte", xlabel="bytes ahead", ylabel="share right")
    axis.set_ylim(0, 1)
    axis.legend()


def _leading(axis, drafts: dict) -> None:
    kinds = kinds_of(drafts)
    width = 0.81 / len(kinds)
    for i, kind in enumerate(kinds):
        counts = drafts[kind]["leading_correct"]["histogram"]
        positions = [count + width * (i - (len(kinds) - 1) / 2) for count in range(len(counts))]
        label = f"{LABELS[kind]}, mean {drafts[kind]['leading_correct']['mean']:.2f}"
        axis.bar(positions, counts, width=width, color=COLOURS[kind], label=label)
    axis.set(title="Real text: leading correct bytes of a draft", xlabel="bytes right in a row", ylabel="drafts")
    axis.legend()


def _kept(axis, writing: dict) -> None:
    for name in ("blt-s", "blt-dv"):
        counts = writing["decodings"][name]["acceptance_histogram"]
        total = max(sum(counts), 1)
        axis.step(range(len(counts)), [c / total for c in counts], where="mid", color=COLOURS[name], label=name)
    axis.set(
        title="Free text: drafted bytes that verification kept",
        xlabel="bytes kept of a draft",
        ylabel="share of rounds",
    )
    axis.set_ylim(0)
    axis.legend()


def _calls(axis, writing: dict) -> None:
    networks = ("decoder", "encoder", "global", "patcher")
    for i, (name, row) in enumerate(writing["decodings"].items()):
        positions = [network + 0.2 * (i - 1.5) for network in range(len(networks))]
        axis.bar(positions, [row[f"{n}_calls_per_byte"] for n in networks], width=0.2, color=COLOURS[name], label=name)
    axis.set_xticks(range(len(networks)), networks)
    axis.set(title="Free text: network calls per byte written", ylabel="calls per byte")
    axis.legend()


def _quality(axis, figures: dict, quality: str, cost: str) -> None:
    """Every setting as a point: what its text is like against what a byte costs."""
    for temperature, settings in figures["settings"].items():
        for name, row in settings.items():
            if row[quality] is None:
                continue
            colour = COLOURS[row["settings"]["decoding"]]
            axis.plot(row[cost], row[quality], MARKERS[temperature], color=colour, markersize=5, alpha=0.8)
            if not row["verified"]:
                place = {"xytext": (4, 3), "textcoords": "offset points", "fontsize": 6}
                axis.annotate(name.removeprefix("blt-d "), (row[cost], row[quality]), **place)
    if figures["real_text"][quality] is not None:
        axis.axhline(figures["real_text"][quality], color="#999999", linestyle=":", label="real text")
    for temperature in figures["settings"]:
        name = temperature if temperature == "greedy" else f"sampled at {temperature}"
        axis.plot([], [], MARKERS[temperature], color="#555555", label=name)
    for decoding in ("ar", "blt-s", "blt-d", "blt-dv"):
        axis.plot([], [], "_", color=COLOURS[decoding], label=decoding)
    axis.set(title="Text of every setting", xlabel=COSTS[cost], ylabel=QUALITIES[quality])
    axis.legend(fontsize=7)
