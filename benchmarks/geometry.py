"""Plain decoding at BLT-1B's geometry, against transformers' BLT and against the machine's own matrix-vector speed.

    python -m benchmarks.geometry --threads 2 --plot

Weights are random, so nothing is said of text. Every new byte reads patcher, encoder and decoder once, and the global
transformer at the end of each patch. The bound of such work is reading the weights: a matrix-vector product
far larger than all caches, timed in the same run, tells how fast this machine does that.
"""

import statistics
import warnings
from collections.abc import Callable
from types import SimpleNamespace

import click
import torch
import torch.nn.functional as F
from rich.console import Console

from .continuing import Prefix
from .harness import (
    CLOCKS,
    DTYPES,
    POSITIVE,
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
from .network_times import PARTS, network_times, parameters_read
from .plots import bars
from .random_models import GEOMETRIES, HASH_ROWS, random_model, random_prompt
from .transformers_blt import transformers_twin

GEMV_BYTES = 512 * 2**20  # far larger than any processor's caches
GEMV_COLUMNS = 2048


class Gemv:
    """Matrix-vector products that read one large matrix.

    Args:
        size: of the matrix, in bytes.
    """

    def __init__(self, dtype: torch.dtype, size: int, clock: Callable[[], float]):
        self.clock = clock
        rows = size // dtype.itemsize // GEMV_COLUMNS
        self.matrix = torch.empty(rows, GEMV_COLUMNS, dtype=dtype)
        block = torch.randn(1024, GEMV_COLUMNS).to(dtype)
        for part in self.matrix.split(1024):
            part.copy_(block[: len(part)])
        self.vector = torch.randn(GEMV_COLUMNS).to(dtype)

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """GB/s of the ways in which torch multiplies a matrix by a vector, by oneDNN's kernels and by its own."""
        ways = {
            "mv": lambda: torch.mv(self.matrix, self.vector),
            "linear": lambda: F.linear(self.vector[None], self.matrix),
        }
        speeds = {name: self.matrix.nbytes / 1e9 / self._seconds(run) for name, run in ways.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of settings that the switch touches besides
            with torch.backends.mkldnn.flags(enabled=False):
                own = self.matrix.nbytes / 1e9 / self._seconds(ways["linear"])
        return speeds | {"linear without oneDNN": own}

    def _seconds(self, run: Callable) -> float:
        times = []
        for _ in range(3):
            began = self.clock()
            run()
            times.append(self.clock() - began)
        return statistics.median(times)


def time_ar(model, prefix: Prefix, new_bytes: int, clock: Callable[[], float]) -> dict:
    """Seconds per byte of plain decoding, and per part of the model the median of its calls and their number."""
    stopwatch = Stopwatch(clock)
    with network_times(model, clock) as times:
        prefix.generate(model, new_bytes + 1, stopwatch, decoding="ar")
    # The first byte's calls are dropped, as its time is: its round also sets things up.
    per_patch = ("pooling", "global")
    calls = {name: values if name in per_patch else values[1:] for name, values in times.seconds.items()}
    return {
        "seconds_per_byte": stopwatch.seconds() / stopwatch.bytes(),
        "call_seconds": {name: statistics.median(values) for name, values in calls.items() if values},
        "calls_per_byte": {name: len(values) / new_bytes for name, values in calls.items() if values},
    }


def time_transformers(twin, ids: torch.Tensor, new_bytes: int, clock: Callable[[], float]) -> float:
    """Seconds per byte of transformers' BLT without a cache, the first byte included: each is a whole pass."""
    stopwatch = Stopwatch(clock)
    twin.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        use_cache=False,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
        max_new_tokens=new_bytes,
        streamer=stopwatch,
    )
    return stopwatch.seconds(skip=0) / stopwatch.bytes(skip=0)


def combine(runs: dict[str, list], reads: dict[str, int], itemsize: int) -> dict:
    """The figures of all repetitions.

    Args:
        runs: lists of what `gemv`, `ar` and `transformers` measured, turn by turn.
        reads: parameters that a call of each part reads.
        itemsize: bytes of a parameter.
    """
    gemv = [max(speeds.values()) for speeds in runs["gemv"]]  # the fastest way, so that no share is flattered
    per_byte = [run["seconds_per_byte"] for run in runs["ar"]]
    parts = {}
    for name in PARTS:
        calls = [run["call_seconds"].get(name) for run in runs["ar"]]
        if None in calls:
            continue
        size = reads[name] * itemsize / 1e9
        bandwidth = [size / seconds for seconds in calls]
        calls_per_byte = runs["ar"][0]["calls_per_byte"][name]
        parts[name] = {
            "parameters": reads[name],
            "seconds_per_call": statistics.median(calls),
            "calls_per_byte": calls_per_byte,
            "seconds_per_byte": statistics.median(calls) * calls_per_byte,
            "gb_per_second": statistics.median(bandwidth),
            "share_of_gemv": paired_ratio(bandwidth, gemv),
        }
    read_per_byte = sum(part["parameters"] * part["calls_per_byte"] for part in parts.values()) * itemsize / 1e9
    bound = [read_per_byte / speed for speed in gemv]
    return {
        "gemv_gb_per_second": {way: statistics.median(run[way] for run in runs["gemv"]) for way in runs["gemv"][0]},
        "ar": {
            "bytes_per_second": 1 / statistics.median(per_byte),
            "seconds_per_byte": statistics.median(per_byte),
            "gb_read_per_byte": read_per_byte,
            "share_of_gemv": paired_ratio(bound, per_byte),
            "outside_networks": 1 - sum(p["seconds_per_byte"] for p in parts.values()) / statistics.median(per_byte),
        },
        "transformers": {"seconds_per_byte": statistics.median(runs["transformers"])},
        "ar_speed_to_transformers": paired_ratio(runs["transformers"], per_byte),
        "parts": parts,
    }


def print_results(results: dict, console: Console) -> None:
    figures = results["figures"]
    line = summary_of(results["machine"], results["dtype"], results["clock"])
    gemv = ", ".join(f"{way} {speed:.1f}" for way, speed in figures["gemv_gb_per_second"].items())
    title = f"Plain decoding, {results['geometry']} geometry, random weights, prefix of {results['prefix']} bytes"
    table = build_table(
        title,
        "part",
        "M params",
        "calls/byte",
        "ms/call",
        "ms/byte",
        "GB/s",
        "of GEMV",
        caption=f"{line}\nGEMV, GB/s: {gemv}; shares are of the fastest",
    )
    for name, part in figures["parts"].items():
        table.add_row(
            name,
            number(part["parameters"] / 1e6, 1),
            number(part["calls_per_byte"]),
            number(1e3 * part["seconds_per_call"]),
            number(1e3 * part["seconds_per_byte"]),
            number(part["gb_per_second"], 1),
            f"{part['share_of_gemv']:.0%}",
        )
    plain = figures["ar"]
    table.add_row("outside", "", "", "", number(1e3 * plain["outside_networks"] * plain["seconds_per_byte"]), "", "")
    share = f"{plain['share_of_gemv']:.0%}"
    table.add_row("ar, all", "", "", "", number(1e3 * plain["seconds_per_byte"]), "", share, end_section=True)
    console.print(table)
    console.print(
        f"ar: {plain['bytes_per_second']:.2f} bytes/s; transformers' BLT without a cache: "
        f"{figures['transformers']['seconds_per_byte']:.2f} s per byte; ar is "
        f"{figures['ar_speed_to_transformers']:.0f} times as fast",
        highlight=False,
    )


def draw(results: dict, path) -> None:
    figures = results["figures"]
    parts = figures["parts"]
    labels = [f"{name} ({part['parameters'] / 1e6:.0f} M)" for name, part in parts.items()] + ["a whole byte"]
    shares = [part["share_of_gemv"] for part in parts.values()] + [figures["ar"]["share_of_gemv"]]
    bars(
        path,
        f"How close plain decoding comes to reading its weights at full speed\n{results['geometry']} geometry, random "
        f"weights, prefix {results['prefix']} bytes; {figures['ar_speed_to_transformers']:.0f}x transformers' BLT",
        labels,
        {"share": [100 * share for share in shares]},
        "% of this machine's matrix-vector speed (longer is better)",
        note=summary_of(results["machine"], results["dtype"], results["clock"]),
        reference=(100, "a bare matrix-vector product"),
    )


@benchmark(__doc__, "geometry", repetitions=5, dtype="bfloat16")
@option("--geometry", type=click.Choice(list(GEOMETRIES)), default="1b")
@option("--prefix", type=POSITIVE, default=512, help="Bytes before the first new one.")
@option("--new-bytes", type=POSITIVE, default=32, help="Bytes that ar writes in a turn; whole patches.")
@option("--transformers-bytes", type=POSITIVE, default=2, help="Bytes that transformers' BLT writes.")
@option("--patch-length", type=POSITIVE, default=4, help="Bytes of every patch.")
def main(options: SimpleNamespace) -> dict:
    gemv_bytes = GEMV_BYTES
    if options.quick:
        options.geometry, options.prefix, options.new_bytes, options.repetitions = "tiny", 64, 8, 2
        gemv_bytes = 2**22
    results, console, clock = start(options), build_console(), CLOCKS[options.clock]
    dtype = DTYPES[options.dtype]
    # BLT's own form, in which the decoder reads encoder states, so that transformers' BLT computes the same.
    config = GEOMETRIES[options.geometry](options.patch_length, decoder_input="encoder")
    model = random_model(config, dtype)
    twin = transformers_twin(model)
    ids = random_prompt(1, options.prefix, options.seed)
    prefix, gemv = Prefix.read(model, ids), Gemv(dtype, gemv_bytes, clock)
    time_ar(model, prefix, options.patch_length, clock)  # the first calls set things up
    candidates = {
        "gemv": gemv.measure,
        "ar": lambda: time_ar(model, prefix, options.new_bytes, clock),
        "transformers": lambda: time_transformers(twin.model, ids, options.transformers_bytes, clock),
    }
    runs = interleave(candidates, options.repetitions)
    results |= {
        "geometry": options.geometry,
        "prefix": options.prefix,
        "hash_rows": HASH_ROWS,
        "transformers_weights": twin.note,
        "figures": combine(runs, parameters_read(model), dtype.itemsize),
        "runs": runs,
    }
    return report(options, results, console, print_results, draw)


if __name__ == "__main__":
    main()
