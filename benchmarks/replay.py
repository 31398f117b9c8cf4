"""A REPLAY: the wall-clock of each decoding if drafts were accepted as often as the paper's tables say.

    python -m benchmarks.replay --threads 2 --plot

No trained weights of the paper are public. But the time of a decoding depends on its calls, not on its text: so a
model of BLT-1B's geometry with random weights drafts and verifies for real, every call with its true shapes, and only
the verdict is scripted, drawn so that on average as many drafted bytes are accepted as in the paper's results.
Nothing here says how well a model writes or drafts.

Scripted, from one row of the table each:

- accepted bytes: as if each drafted byte were accepted with one probability, up to the first that is not; the
  probability is the one that gives the table's mean for the table's draft length. Counts are drawn evenly over that
  distribution, so that short runs have its mean too, and modes that are compared have the same counts;
- patch lengths: as often as the paper's plain decoding called its global model (`--patch-length table`), or every
  so many bytes;
- `blt-dv` with two refinement passes, which the paper has not: accepted bytes as the bundled checkpoint's rise by them;
- `blt-d`: unmasking steps per block, as the table's decoder calls per global call.

The paper's block of `B` holds masked bytes alone, here a block holds the carried byte too: blocks are one longer,
so that `B` bytes are drafted in all modes. With `paper_passes` the carried byte is fed first, and the block is the
paper's.
"""

import csv
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import click
import torch
import torch.nn.functional as F
from fblt.training.evaluation.traffic import COMPONENTS, component_parameters, traffic_gb
from rich.console import Console

from modeling_fblt import FBLTConfig, base_model_fblt, byte_choice_fblt, drafters_fblt

from .continuing import MOST_NEW, Prefix
from .harness import (
    CLOCKS,
    DTYPES,
    FILE,
    POSITIVE,
    Listed,
    Stopwatch,
    benchmark,
    build_console,
    build_table,
    interleave,
    number,
    option,
    paired_ratio,
    report,
    start,
    summary_of,
)
from .plots import bars
from .random_models import GEOMETRIES, HASH_ROWS, random_model, random_prompt

GOLDEN = (5**0.5 - 1) / 2
# Of the way from a block's accepted bytes to the decoder's own of as many, this share is made by two refinement passes:
# the bundled checkpoint's leading correct bytes, 1.31, 1.70 and 1.89 of 7, on 960 held-out places.
TWO_PASSES = 0.67
LABEL = "REPLAY (acceptance from the paper's tables, random weights)"
# Fast BLT (arXiv 2605.08044), 3B, FLORES fr-en: new bytes, decoder and global calls, share of drafted bytes accepted.
PAPER_BYTES = {"fr-en": 512, "de-en": 512, "humaneval": 512, "mbpp": 256}
PAPER_ROWS = (
    ("BLT", "AR", "", None, 512, 308),
    ("BLT", "BLT-S", "k=4", 94.93, 534, 215),
    ("BLT", "BLT-S", "k=8", 87.16, 580, 130),
    ("BLT", "BLT-S", "k=16", 69.93, 724, 87),
    ("BLT-D-4", "BLT-D", "alpha=0.7", None, 216, 128),
    ("BLT-D-4", "BLT-DV", "one-step", 93.12, 217, 217),
    ("BLT-D-8", "BLT-D", "alpha=0.7", None, 179, 64),
    ("BLT-D-8", "BLT-DV", "one-step", 84.63, 133, 133),
    ("BLT-D-16", "BLT-D", "alpha=0.7", None, 162, 32),
    ("BLT-D-16", "BLT-DV", "one-step", 60.33, 99, 99),
)


@dataclass(frozen=True)
class Script:
    """One row of the paper's results, as a mode of the engine.

    Attributes:
        name: of the mode.
        settings: arguments of `generate`.
        drafted: bytes drafted per iteration.
        acceptance: share of drafted bytes that are accepted; None where nothing is verified.
        steps: unmasking steps per block, on average; None where there is one.
        two_calls: whether it spends the paper's two global calls per iteration.
    """

    name: str
    settings: dict
    drafted: int = 0
    acceptance: float | None = None
    steps: float | None = None
    two_calls: bool = False


def read_rows(path: Path | None, size: str, task: str) -> list[tuple]:
    """Rows as in `PAPER_ROWS` of a CSV with the paper's results, or those that stand here.

    Raises:
        ValueError: `--results` has no such rows.
    """
    if path is None:
        if (size, task) != ("3B", "fr-en"):
            raise ValueError(f"`--task {task}` of `--size {size}` does not stand in this script: give `--results`.")
        return list(PAPER_ROWS)
    with path.open() as file:
        found = [row for row in csv.DictReader(file) if (row["size"], row["task"]) == (size, task)]
    if not any(row["method"] == "AR" for row in found):
        raise ValueError(f"`--results {path}`: has no plain decoding of {size} on {task}, which all is compared with.")
    return [
        (
            row["model"],
            row["method"],
            row["setting"],
            float(row["acceptance_pct"]) if row["acceptance_pct"] else None,
            int(row["decoder_nfe"]),
            int(row["global_nfe"]),
        )
        for row in found
    ]


def scripts(rows: list[tuple]) -> list[Script]:
    """The modes to replay, plain decoding first; verified ones with one global call per iteration and with two."""
    found, causal = [Script("ar", {"decoding": "ar"})], {}
    for model, method, setting, acceptance, decoder_calls, global_calls in rows:
        if method == "BLT-S":
            k = int(setting.removeprefix("k="))
            causal[k] = acceptance
            found += _verified(f"blt-s {k}", {"decoding": "blt-s", "draft_length": k}, k, k, k, acceptance)
        elif method == "BLT-DV" and setting == "one-step":
            size = int(model.rsplit("-", 1)[1])
            settings = {"decoding": "blt-dv", "unmasking": "one_step"}
            found += _verified(f"blt-dv {size}", settings, size, size + 1, size, acceptance)
            if size in causal:
                better = acceptance + TWO_PASSES * (causal[size] - acceptance)
                refined = settings | {"block_size": size + 1, "refine_steps": 2}
                found.append(Script(f"blt-dv {size}, 2 passes", refined, size, better / 100))
        elif method == "BLT-D" and setting == "alpha=0.7":
            size = int(model.rsplit("-", 1)[1])
            settings = {"decoding": "blt-d", "unmasking": "confidence", "block_size": size + 1}
            found.append(Script(f"blt-d {size}", settings, size, steps=decoder_calls / global_calls))
    return found


def _verified(name: str, settings: dict, drafted: int, block: int, paper_block: int, acceptance: float) -> list[Script]:
    with_block = settings["decoding"] == "blt-dv"
    one = settings | ({"block_size": block} if with_block else {})
    two = settings | {"paper_passes": True} | ({"block_size": paper_block} if with_block else {})
    return [
        Script(name, one, drafted, acceptance / 100),
        Script(f"{name}, two calls", two, drafted, acceptance / 100, two_calls=True),
    ]


def acceptance_probability(share: float, drafted: int) -> float:
    """The probability per byte with which `share * drafted` of `drafted` bytes are accepted on average.

    The accepted bytes are those before the first rejection, so the mean is `p + p^2 + ... + p^drafted`.
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        mean = sum(middle**i for i in range(1, drafted + 1))
        low, high = (middle, high) if mean < share * drafted else (low, middle)
    return (low + high) / 2


def accepted_bytes(chance: float, drafted: int, uniform: float) -> int:
    """The count, in `0 .. drafted`, below which the share `uniform` of the counts falls.

    A count of at least `i` has the probability `chance ** i`.
    """
    count = 0
    while count < drafted and 1 - uniform < chance ** (count + 1):
        count += 1
    return count


def spread_starts(position: torch.Tensor, patch_length: float) -> torch.Tensor:
    """Which positions start a patch so that these are `patch_length` bytes on average, evenly spread."""
    return torch.floor(position / patch_length) > torch.floor((position - 1) / patch_length)


class Verdicts:
    """Decides instead of verification and of unmasking, the same each time.

    Args:
        script: what to decide by.
    """

    def __init__(self, script: Script):
        self.script = script
        self.chance = None
        if script.acceptance is not None:
            self.chance = acceptance_probability(script.acceptance, script.drafted)
        self.draws = 0
        self.steps_left = 0

    def draw(self) -> float:
        """Numbers in [0, 1) that fill it evenly, however many are drawn."""
        self.draws += 1
        return self.draws * GOLDEN % 1

    def verify(self, chooser, draft, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `ByteChoice.verify`, after doing its work: the drawn number of drafted bytes, then the model's choice."""
        choice, _ = Verdicts.judged(chooser, draft, scores)
        accepted = torch.zeros_like(draft.lengths)
        if draft.ids.shape[1]:
            counts = [accepted_bytes(self.chance, self.script.drafted, self.draw()) for _ in draft.lengths]
            accepted = torch.minimum(torch.tensor(counts), draft.lengths)
        offsets = torch.arange(draft.ids.shape[1] + 1)
        new = torch.where(offsets < accepted[:, None], F.pad(draft.ids, (0, 1)), choice)
        return new, accepted

    judged = staticmethod(byte_choice_fblt.ByteChoice.verify)

    def unmask(self, probabilities: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """As `BlockFiller._unmask`: equal shares of the masked positions, in as many steps as the script says."""
        if self.script.steps is None:
            return masked
        if self.steps_left == 0:
            whole, rest = divmod(self.script.steps, 1)
            self.steps_left = max(1, int(whole) + int(self.draw() < rest))
        now = -(-int(masked.sum(1).max()) // self.steps_left)
        self.steps_left -= 1
        return masked & (masked.long().cumsum(1) <= now)


@contextmanager
def scripted(script: Script, patch_length: float) -> Iterator[Verdicts]:
    """The engine with verdicts, unmasking and patch boundaries by script; everything else runs as it is."""
    verdicts = Verdicts(script)

    def boundaries(mode, ids, entropies, state, *rest):
        position = state.position[:, None] + torch.arange(1, ids.shape[1] + 1)
        return spread_starts(position, patch_length)

    def unmask(filler, probabilities, masked):
        return verdicts.unmask(probabilities, masked)

    with (
        mock.patch.object(byte_choice_fblt.ByteChoice, "verify", lambda *given: verdicts.verify(*given)),
        mock.patch.object(drafters_fblt.BlockFiller, "_unmask", unmask),
        mock.patch.object(base_model_fblt, "raw_boundaries", boundaries),
    ):
        yield verdicts


def run(model, prefix: Prefix, script: Script, patch_length: float, new_bytes: int, clock: Callable) -> dict:
    """One generation: seconds and calls per new byte; the first and the last round are left out of the seconds.

    Raises:
        ValueError: `--new-bytes` is so small that no whole round is left.
    """
    stopwatch = Stopwatch(clock)
    with scripted(script, patch_length):
        output = prefix.generate(model, new_bytes + 1, stopwatch, **script.settings)
    if len(stopwatch.arrivals) < 2:
        raise ValueError(f"`--new-bytes {new_bytes}`: {script.name} wrote them in one round; give more.")
    drop = 1 if len(stopwatch.arrivals) > 2 else 0
    seconds, written = stopwatch.seconds(drop=drop), stopwatch.bytes(drop=drop)
    rounds = len(stopwatch.arrivals) - 1 - drop
    return {
        "seconds_per_byte": seconds / written,
        "seconds_per_iteration": seconds / rounds,
        "bytes_per_iteration": written / rounds,
        "calls_per_byte": {name: int(getattr(output, f"{name}_nfe").sum()) / (new_bytes + 1) for name in COMPONENTS},
        "acceptance": int(output.accepted.sum()) / max(1, int(output.drafted.sum())),
    }


def scripted_config(geometry: str, modes: Sequence[Script]) -> FBLTConfig:
    """A geometry with blocks as long as the modes' longest draft, and boundaries that scripts alone decide."""
    config = GEOMETRIES[geometry](block_size=max(2, 1 + max(script.drafted for script in modes)))
    config.max_patch_length = None
    return config


def turns_of(
    model, ids: torch.Tensor, modes: Sequence[Script], patch_length: float, new_bytes: int, clock: Callable
) -> dict[str, Callable[[], dict]]:
    """By mode a call of [`run`] after the bytes `ids`, which are read once; the first calls have been made."""
    with scripted(modes[0], patch_length):
        prefix = Prefix.read(model, ids)
    for script in modes:
        with scripted(script, patch_length):
            prefix.generate(model, 2 * model.config.block_size, **script.settings)
    return {
        script.name: lambda script=script: run(model, prefix, script, patch_length, new_bytes, clock)
        for script in modes
    }


def combine(runs: dict[str, list[dict]], modes: list[Script], parameters: dict[str, int]) -> dict[str, dict]:
    """Per mode: medians, and ratios to plain decoding and to the same mode with two global calls."""

    def column(name: str, key: str) -> list[float]:
        return [figures[key] for figures in runs[name]]

    plain_traffic = traffic_gb(runs["ar"][0]["calls_per_byte"], parameters)
    combined = {}
    for script in modes:
        first = runs[script.name][0]
        traffic = traffic_gb(first["calls_per_byte"], parameters)
        figures = {
            key: statistics.median(column(script.name, key))
            for key in ("seconds_per_byte", "seconds_per_iteration", "bytes_per_iteration", "acceptance")
        }
        figures |= {
            "settings": script.settings,
            "calls_per_byte": first["calls_per_byte"],
            "target_acceptance": script.acceptance,
            "traffic_gb_per_byte": traffic,
            "traffic_to_ar": traffic / plain_traffic,
            "speed_to_ar": paired_ratio(column("ar", "seconds_per_byte"), column(script.name, "seconds_per_byte")),
        }
        pair = f"{script.name}, two calls"
        if pair in runs:
            for what in ("byte", "iteration"):
                key = f"seconds_per_{what}"
                figures[f"speed_to_two_calls_per_{what}"] = paired_ratio(column(pair, key), column(script.name, key))
        combined[script.name] = figures
    return combined


def print_results(results: dict, console: Console) -> None:
    line = summary_of(results["machine"], results["dtype"], results["clock"])
    for length, modes in results["patch_lengths"].items():
        table = build_table(
            f"{LABEL}: {results['size']} {results['task']}, {results['geometry']} geometry, patches of {length} bytes",
            "mode",
            "kept",
            "B/iter",
            "dec/B",
            "enc/B",
            "glob/B",
            "pat/B",
            "Eq. 8",
            "ms/B",
            "x ar",
            "x two/B",
            "x two/iter",
            caption=f"{line}\nEq. 8: weights read, of ar's, no patcher; x two: against the same with two global calls",
        )
        for name, figures in modes.items():
            calls = [number(figures["calls_per_byte"][part]) for part in ("decoder", "encoder", "global", "patcher")]
            pair = [figures.get(f"speed_to_two_calls_per_{what}") for what in ("byte", "iteration")]
            table.add_row(
                name,
                f"{figures['acceptance']:.0%}" if figures["target_acceptance"] else "-",
                number(figures["bytes_per_iteration"], 1),
                *calls,
                f"{figures['traffic_to_ar']:.0%}",
                number(1e3 * figures["seconds_per_byte"], 1),
                number(figures["speed_to_ar"]),
                *(number(ratio) for ratio in pair),
            )
        console.print(table)


def draw(results: dict, path: Path) -> None:
    names = list(next(iter(results["patch_lengths"].values())))
    series = {
        f"patches of {length} bytes": [modes[name]["speed_to_ar"] for name in names]
        for length, modes in results["patch_lengths"].items()
    }
    bars(
        path,
        f"{LABEL}\nSpeed if drafts were accepted as in the paper ({results['size']} {results['task']}), "
        f"{results['geometry']} geometry, prefix {results['prefix']} bytes",
        names,
        series,
        "times as fast as ar, one byte at a time (longer is better)",
        note=summary_of(results["machine"], results["dtype"], results["clock"]),
        reference=(1, "ar"),
        digits=2,
    )


@benchmark(__doc__, "replay", repetitions=3, dtype="bfloat16")
@option("--results", type=FILE, help="CSV of the paper's results; the rows in this script if not given.")
@option("--size", default="3B", help="Whose acceptance to replay.")
@option("--task", type=click.Choice(list(PAPER_BYTES)), default="fr-en")
@option("--geometry", type=click.Choice(list(GEOMETRIES)), default="1b")
@option("--prefix", type=POSITIVE, default=512)
@option("--new-bytes", type=POSITIVE, default=128, help=f"at most {MOST_NEW - 1}.")
@option("--patch-lengths", type=Listed(click.STRING), default=["table", "4"], help="Bytes, or `table`.")
@option(
    "--only",
    type=Listed(click.STRING),
    metavar="MODE",
    help="Beside ar; modes with two calls and with passes come along.",
)
def main(options: SimpleNamespace) -> dict:
    if options.quick:
        options.geometry, options.prefix, options.new_bytes, options.repetitions = "tiny", 64, 96, 1
    results, console, clock = start(options), build_console(), CLOCKS[options.clock]
    rows = read_rows(options.results, options.size, options.task)
    modes = [
        script
        for script in scripts(rows)
        if not options.only or script.name == "ar" or script.name.split(",")[0] in options.only
    ]
    config = scripted_config(options.geometry, modes)
    dtype = DTYPES[options.dtype]
    model = random_model(config, dtype)
    ids = random_prompt(1, options.prefix, options.seed)
    plain = next(row for row in rows if row[1] == "AR")
    lengths = [PAPER_BYTES[options.task] / plain[5] if t == "table" else float(t) for t in options.patch_lengths]
    results |= {
        "label": LABEL,
        "size": options.size,
        "task": options.task,
        "geometry": options.geometry,
        "prefix": options.prefix,
        "hash_rows": HASH_ROWS,
        "patch_lengths": {},
        "runs": {},
    }
    for length in lengths:
        turns = turns_of(model, ids, modes, length, options.new_bytes, clock)
        runs = interleave(turns, options.repetitions)
        results["patch_lengths"][f"{length:.2f}"] = combine(runs, modes, component_parameters(model))
        results["runs"][f"{length:.2f}"] = runs
    return report(options, results, console, print_results, draw)


if __name__ == "__main__":
    main()
