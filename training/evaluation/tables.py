"""The evaluation as tables: plain text where there is no terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .drafts import REFINED, kinds_of

TITLES = {"greedy": "greedy"}  # others are temperatures


def number(value: float | None, digits: int = 3) -> str:
    """A figure as text; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def interval(ratio: dict) -> str:
    """A ratio with its 95 % interval."""
    return f"{number(ratio['ratio'])} (95 %: {number(ratio['low'])} .. {number(ratio['high'])})"


def print_evaluation(evaluation: dict, console: Console) -> None:
    """Prints every figure of `evaluate`'s result but the samples."""
    drafts, writing, quality = (evaluation[name] for name in ("drafts", "writing", "quality"))
    tables = [next_byte_table(evaluation["next_byte"]), offset_table(drafts), leading_table(drafts)]
    tables += [writing_table(writing), cost_table(writing), acceptance_table(writing)]
    tables += [quality_table(quality, temperature) for temperature in quality["settings"]]
    for table in tables:
        console.print(table, "")
    for line in equality_lines(evaluation["writing"]["equality"]):
        console.print(line, markup=False, highlight=False)


def _table(title: str, first: str, *headings: str) -> Table:
    table = Table(
        title=title, box=SIMPLE_HEAD, show_edge=False, padding=0, title_justify="left", caption_justify="left"
    )
    table.add_column(first, no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def next_byte_table(figures: dict) -> Table:
    table = _table("Held-out text", "source", "bytes", "bits/byte", "accuracy", "non-blank", "bytes/patch")
    for name, row in [*figures["sources"].items(), ("all", figures["all"])]:
        shares = (row[key] for key in ("bits_per_byte", "accuracy", "accuracy_non_blank"))
        table.add_row(name, str(row["bytes"]), *map(number, shares), number(row["mean_patch_length"], 2))
    return table


def offset_table(figures: dict) -> Table:
    offsets = [str(offset) for offset in range(1, figures["block_size"])]
    table = _table(f"Accuracy by offset from the carried byte, {figures['count']} anchors", "draft", *offsets)
    for kind in kinds_of(figures)[:-1]:
        for counted, values in figures[kind]["accuracy_by_offset"].items():
            table.add_row(f"{kind}, {counted.replace('_', '-')}", *(number(value, 2) for value in values))
    return table


def leading_table(figures: dict) -> Table:
    top = [str(count) for count in range(figures["block_size"])]
    table = _table("Leading correct bytes (mean, and anchors by count)", "continuation", "mean", "+-", *top)
    for kind in kinds_of(figures):
        leading = figures[kind]["leading_correct"]
        table.add_row(kind, number(leading["mean"]), number(leading["standard_error"]), *map(str, leading["histogram"]))
    ratios = [("one_step / blt-s", "one_step_to_blt_s"), ("blt-s / ar", "blt_s_to_ar")]
    ratios += [("head / blt-s", "head_to_blt_s"), ("head / ar", "head_to_ar")]
    ratios += [(f"{kind} / ar", f"{kind}_to_ar") for kind in REFINED]
    table.caption = "\n".join(f"{label} = {interval(figures[key])}" for label, key in ratios if key in figures)
    return table


def writing_table(figures: dict) -> Table:
    title = (
        f"Free text: {figures['prompts']} prompts, {figures['new_bytes']} bytes each; distinct 8-grams, calls per byte"
    )
    table = _table(title, "decoding", "8-grams", "to ar", "decoder", "encoder", "global", "patcher")
    table.add_row("(real text)", number(figures["reference_distinct_8grams"]), *["-"] * 5)
    for name, row in figures["decodings"].items():
        calls = (row[f"{component}_calls_per_byte"] for component in ("decoder", "encoder", "global", "patcher"))
        distinct = (row["distinct_8grams"], row["distinct_8grams_to_ar"])
        table.add_row(name, *map(number, distinct), *map(number, calls))
    return table


def cost_table(figures: dict) -> Table:
    headings = ("B/iter", "glob/iter", "kept", "MB/byte", "to ar", "+patcher", "to ar")
    table = _table(
        "Free text: per iteration, share of drafts kept, weights read (Eq. 8, bfloat16)", "decoding", *headings
    )
    for name, row in figures["decodings"].items():
        per_iteration = (row[key] for key in ("bytes_per_iteration", "global_calls_per_iteration", "acceptance"))
        keys = ("traffic_mb_per_byte", "traffic_with_patcher_mb_per_byte")
        traffic = (row[key + end] for key in keys for end in ("", "_to_ar"))
        table.add_row(name, *map(number, per_iteration), *map(number, traffic))
    return table


def acceptance_table(figures: dict) -> Table:
    histograms = {name: row["acceptance_histogram"] for name, row in figures["decodings"].items()}
    histograms = {name: counts for name, counts in histograms.items() if any(counts)}
    longest = max((len(counts) for counts in histograms.values()), default=0)
    table = _table(
        "Free text: rounds by how many bytes of their draft were kept", "decoding", *map(str, range(longest))
    )
    for name, counts in histograms.items():
        table.add_row(name, *map(str, counts))
    return table


# Eighty columns hold these.
SHORT_HEADINGS = ("bits/B", "+-", "words", "+-", "8-gr.", "dec/B", "glob/B", "MB/B", "kept")
QUALITY_HEADINGS = ("bits/byte", "+-", "known words", "+-", "8-grams", "decoder/B", "global/B", "MB/B", "kept")


def quality_rows(figures: dict, temperature: str) -> list[tuple[str, list[str]]]:
    """Name and cells of each setting's row, real text first."""

    def cells(row: dict) -> list[str]:
        keys = ("bits_per_byte", "bits_per_byte_error", "known_words", "known_words_error", "distinct_8grams")
        costs = ("decoder_calls_per_byte", "global_calls_per_byte", "traffic_mb_per_byte")
        kept = row.get("acceptance") if row.get("verified") else None
        return [number(value) for value in (*(row[key] for key in keys), *(row.get(key) for key in costs), kept)]

    rows = {"real text": figures["real_text"], **figures["settings"][temperature]}
    return [(name, cells(row)) for name, row in rows.items()]


def quality_table(figures: dict, temperature: str) -> Table:
    title = (
        f"Text of every setting, {TITLES.get(temperature, f'sampled at {temperature}')}: {figures['prompts']} prompts"
    )
    table = _table(title, "setting", *SHORT_HEADINGS)
    table.caption = "words: share of known words; 8-gr.: of distinct 8-grams; /B: per byte"
    for name, cells in quality_rows(figures, temperature):
        table.add_row(name, *cells)
    return table


def speed_table(chosen: dict) -> Table:
    """What `--choose-defaults` measured."""
    table = _table("Times as fast as ar, median over prompts", "setting", *next(iter(chosen["speeds"].values())))
    for name, ratios in chosen["speeds"].items():
        table.add_row(name, *(number(value, 2) for value in ratios.values()))
    table.caption = f"default from now on: {chosen['chosen']}"
    return table


def equality_lines(equality: dict) -> list[str]:
    """One line per verified decoding, and one per text that is not `ar`'s."""
    lines = []
    for name, result in equality.items():
        lines.append(f"{name} equals ar on {result['equal']} of {result['prompts']} prompts")
        for difference in result["differences"]:
            kind = "a near-tie" if difference["near_tie"] else "NOT a near-tie"
            lines.append(
                f"  prompt {difference['prompt']}: differs from byte {difference['position']} on, top-2 gap "
                f"{difference['top_2_gap']:.2e} logits, {kind}"
            )
    return lines
