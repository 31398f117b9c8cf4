"""How time per byte and the cache grow with the text: plain decoding at 512 .. 16384 bytes, batches of 1 .. 16.

    python -m benchmarks.scaling --threads 2 --plot
    python -m benchmarks.scaling --geometry 1b --batches 1 --threads 2 --output runs/benchmarks/scaling-1b.json

Weights are random. One prefix is read and its cache kept at every position, so that positions take turns.

What a row's cache holds, in values: per complete patch the keys and values of the global transformer, its latent, and
the number of its document,

    patches * (2 * global layers * key width + global width) + 8 bytes * patches,

and per byte the keys and values of the windowed networks, the encoder's state, and four integers of 8 bytes,

    columns * (2 * sum of layers * key width over patcher, encoder, decoder  +  encoder width) + 32 bytes * columns,

where `columns` stays below a bound that the windows give, however long the text is. Buffers grow geometrically, so the
memory held is more than what is used, see the table.
"""

import copy
import statistics
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import click
import torch
from rich.console import Console

from .continuing import Prefix
from .harness import (
    CLOCKS,
    DTYPES,
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
from .plots import lines
from .random_models import GEOMETRIES, HASH_ROWS, random_model, random_prompt

LONG = 8  # bytes of an integer


def _key_width(config) -> int:
    head = config.head_dim or config.hidden_size // config.num_attention_heads
    return head * (config.num_key_value_heads or config.num_attention_heads)


def patch_bytes(config, itemsize: int) -> int:
    """Bytes that one patch of one row takes in the cache, its document's number included."""
    network = config.global_config
    return (2 * network.num_hidden_layers * _key_width(network) + network.hidden_size) * itemsize + LONG


def column_bytes(config, itemsize: int) -> int:
    """Bytes that one byte of text of one row takes in the cache while it is held."""
    networks = (config.patcher_config, config.encoder_config, config.decoder_config)
    keys = sum(2 * network.num_hidden_layers * _key_width(network) for network in networks)
    pooled = config.encoder_config.num_hidden_layers if config.encoder_config.cross_attn_all_layers else 1
    return (keys + pooled * config.encoder_config.hidden_size) * itemsize + 4 * LONG


def measured_memory(cache) -> dict[str, int]:
    """Bytes that a cache holds, those kept per patch, those kept per byte of a window, and its capacities in entries.

    The ids that it dropped, two bytes each, by which it knows a text again, count among all bytes alone.
    """
    patch_part = [cache.latents, cache.document_patch, *cache.global_transformer]
    by_patch = sum(buffer.data.nbytes for buffer in patch_part)
    earlier = 0 if cache.earlier_ids.data is None else cache.earlier_ids.data.nbytes
    return {
        "bytes": cache.nbytes(),
        "patch_bytes": by_patch,
        "byte_bytes": cache.nbytes() - by_patch - earlier,
        "patches": cache.max_patches,
        "patch_capacity": cache.latents.data.shape[1],
        "columns": cache.max_column,
        "column_capacity": cache.ids.data.shape[1],
    }


def expected_memory(config, itemsize: int, batch: int, patches: int, columns: int) -> dict[str, int]:
    """The formula at the head of this file, for so many patches and columns of each row."""
    by_patch = batch * patches * patch_bytes(config, itemsize)
    by_byte = batch * columns * column_bytes(config, itemsize)
    return {"bytes": by_patch + by_byte, "patch_bytes": by_patch, "byte_bytes": by_byte}


@torch.inference_mode()
def prefixes(model, ids: torch.Tensor, positions: list[int]) -> dict[int, Prefix]:
    """Prefixes of the same rows `[batch, longest]`, read once."""
    found, done, cache = {}, 0, None
    for position in positions:
        cache = model(ids[:, done : position - 1], past_key_values=cache, use_cache=True).past_key_values
        done = position - 1
        found[position] = Prefix(ids[:, :position], copy.deepcopy(cache))
    return found


def time_bytes(model, prefix: Prefix, new_bytes: int, clock: Callable[[], float]) -> float:
    """Seconds per byte of each row."""
    stopwatch = Stopwatch(clock)
    prefix.generate(model, new_bytes + 1, stopwatch, decoding="ar")
    return stopwatch.seconds() / stopwatch.bytes()


def combine(config, itemsize: int, batch: int, runs: dict[int, list[float]], memory: dict[int, dict]) -> list[dict]:
    """One entry per position, ratios to the first."""
    first = next(iter(runs))
    entries = []
    for position, seconds in runs.items():
        held = memory[position]
        used = expected_memory(config, itemsize, batch, held["patches"], held["columns"])
        entries.append(
            {
                "batch": batch,
                "position": position,
                "seconds_per_byte": statistics.median(seconds),
                "seconds_to_first": paired_ratio(seconds, runs[first]),
                "cache": held,
                "formula_used": used,
                "formula_held": expected_memory(
                    config, itemsize, batch, held["patch_capacity"], held["column_capacity"]
                ),
            }
        )
    return entries


def print_results(results: dict, console: Console) -> None:
    line = summary_of(results["machine"], results["dtype"], results["clock"])
    table = build_table(
        f"Plain decoding of longer and longer texts, {results['geometry']} geometry, random weights",
        "batch",
        "position",
        "ms/step",
        "of first",
        "cache MB",
        "formula",
        "per patch",
        "per byte",
        "used MB",
        caption=f"{line}\na step writes a byte of every row; formula: of the entries held, which must be the cache's "
        f"but for rounding; used: of the entries in use\nper patch and row {results['patch_bytes']} bytes, growing "
        f"with the text; per byte and row {results['column_bytes']} bytes, at most {results['most_columns']} + a chunk",
    )
    for entry in results["figures"]:
        cache = entry["cache"]
        table.add_row(
            str(entry["batch"]),
            str(entry["position"]),
            number(1e3 * entry["seconds_per_byte"], 1),
            number(entry["seconds_to_first"]),
            *(
                number(value / 1e6, 1)
                for value in (
                    cache["bytes"],
                    entry["formula_held"]["bytes"],
                    cache["patch_bytes"],
                    cache["byte_bytes"],
                    entry["formula_used"]["bytes"],
                )
            ),
        )
    console.print(table)


def draw(results: dict, path: Path) -> None:
    by_batch: dict[int, list[dict]] = {}
    for entry in results["figures"]:
        by_batch.setdefault(entry["batch"], []).append(entry)
    times, memory = {}, {}
    for batch, entries in by_batch.items():
        across = [entry["position"] for entry in entries]
        name = f"batch {batch}"
        times[name] = (across, [1e3 * entry["seconds_per_byte"] for entry in entries])
        memory[name] = (across, [entry["cache"]["bytes"] / 1e6 for entry in entries])
        memory[f"{name} (formula)"] = (across, [entry["formula_used"]["bytes"] / 1e6 for entry in entries])
    growth = max(entry["seconds_to_first"] for entry in results["figures"])
    lines(
        path,
        f"Plain decoding of longer and longer texts ({results['geometry']} geometry, random weights)",
        [
            (
                f"Time: at most {growth:.2f} times the first position's",
                "ms per byte of each row (lower is better)",
                False,
                times,
            ),
            ("Cache; dashed: in use, by formula", "MB (lower is better)", True, memory),
        ],
        "bytes already written (log scale)",
        note=summary_of(results["machine"], results["dtype"], results["clock"]),
    )


@benchmark(__doc__, "scaling", repetitions=5, dtype="float32")
@option("--geometry", type=click.Choice(list(GEOMETRIES)), default="small")
@option("--positions", type=Listed(POSITIVE), default=[512, 2048, 8192, 16384])
@option("--batches", type=Listed(POSITIVE), default=[1, 4, 16])
@option("--new-bytes", type=POSITIVE, default=32, help="Bytes per row and turn; whole patches.")
@option("--patch-length", type=POSITIVE, default=4, help="Bytes of every patch.")
def main(options: SimpleNamespace) -> dict:
    if options.quick:
        options.geometry, options.positions, options.batches = "tiny", [64, 256, 2048], [1, 3]
        options.repetitions, options.new_bytes = 2, 8
    results, console, clock = start(options), build_console(), CLOCKS[options.clock]
    dtype = DTYPES[options.dtype]
    model = random_model(GEOMETRIES[options.geometry](options.patch_length), dtype)
    config, positions = model.config, sorted(options.positions)
    results |= {
        "geometry": options.geometry,
        "hash_rows": HASH_ROWS,
        "patch_length": options.patch_length,
        "patch_bytes": patch_bytes(config, dtype.itemsize),
        "column_bytes": column_bytes(config, dtype.itemsize),
        "figures": [],
        "runs": {},
    }
    for batch in sorted(options.batches):
        read = prefixes(model, random_prompt(batch, positions[-1], options.seed), positions)
        memory = {position: measured_memory(prefix.cache) for position, prefix in read.items()}
        results["most_columns"] = max(prefix.cache.most_columns for prefix in read.values())
        for prefix in read.values():
            time_bytes(model, prefix, options.patch_length, clock)  # the first calls set things up
        turns = {
            position: lambda prefix=prefix: time_bytes(model, prefix, options.new_bytes, clock)
            for position, prefix in read.items()
        }
        runs = interleave(turns, options.repetitions)
        results["figures"] += combine(config, dtype.itemsize, batch, runs, memory)
        results["runs"][batch] = runs
    return report(options, results, console, print_results, draw)


if __name__ == "__main__":
    main()
