"""How fast one row and a few multiply with a large layer's weights, in each precision that torch has on a CPU.

    python -m benchmarks.products --threads 2

Decoding at BLT-1B's shape reads weights and does little else: a byte is one row, a verified draft 9 or 17. So the time
of a product, and what 8 bits would save of it, is the bound of all speed there. The matrices are as the global
transformer's feed-forward has them, more of them than caches hold, each used once in a turn:

- `float32` and `bfloat16`: torch's `linear`; `bfloat16, without oneDNN` is torch's own kernel;
- `int8 weights`: 8 bits with a scale for each output, activations in bfloat16 or float32, as torchao's weight-only
  quantisation computes on a CPU;
- `int8, activations too`: activations are quantised at each call (fbgemm's or oneDNN's kernels).

`error` is that of a row's outputs, relative to float32's, for normal weights.
"""

import statistics
from collections.abc import Callable
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from rich.console import Console

from .harness import (
    CLOCKS,
    POSITIVE,
    Listed,
    benchmark,
    build_console,
    build_table,
    interleave,
    number,
    option,
    paired_ratio,
    save,
    start,
    summary_of,
)

REFERENCE = "bfloat16"
Product = Callable[[torch.Tensor], torch.Tensor]  # of rows `[rows, inputs]`


def quantized(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix `[outputs, inputs]` in 8 bits, and a scale for each output."""
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale).round().to(torch.int8), scale[:, 0]


def weight_only(weight: torch.Tensor, dtype: torch.dtype) -> Product:
    packed, scale = quantized(weight)
    scale = scale.to(dtype)
    return lambda rows: torch.ops.aten._weight_int8pack_mm(rows.to(dtype), packed, scale)


def dynamic(weight: torch.Tensor) -> Product:
    scale = quantized(weight)[1].double()
    whole = torch.quantize_per_channel(weight, scale, torch.zeros(len(weight), dtype=torch.long), 0, torch.qint8)
    packed = torch.ops.quantized.linear_prepack(whole, None)
    return lambda rows: torch.ops.quantized.linear_dynamic(rows, packed, True)


def plain(weight: torch.Tensor, dtype: torch.dtype, onednn: bool = True) -> Product:
    weight = weight.to(dtype)

    def product(rows: torch.Tensor) -> torch.Tensor:
        with torch.backends.mkldnn.flags(enabled=onednn):
            return F.linear(rows.to(dtype), weight)

    return product


WAYS: dict[str, tuple[Callable[[torch.Tensor], Product], int]] = {  # and bytes of a weight
    "float32": (lambda weight: plain(weight, torch.float32), 4),
    "bfloat16": (lambda weight: plain(weight, torch.bfloat16), 2),
    "bfloat16, without oneDNN": (lambda weight: plain(weight, torch.bfloat16, onednn=False), 2),
    "int8 weights, bfloat16": (lambda weight: weight_only(weight, torch.bfloat16), 1),
    "int8 weights, float32": (lambda weight: weight_only(weight, torch.float32), 1),
    "int8, activations too": (dynamic, 1),
}


def measure(options: SimpleNamespace) -> dict[str, dict]:
    """By way: the relative error of a row, and by rows seconds of a matrix, turn by turn."""
    clock, generator = CLOCKS[options.clock], torch.Generator().manual_seed(options.seed)
    weights = [
        torch.randn(options.outputs, options.inputs, generator=generator) / options.inputs**0.5
        for _ in range(options.matrices)
    ]
    rows = torch.randn(max(options.rows), options.inputs, generator=generator)
    found = {}
    for name, (build, _) in WAYS.items():
        products = [build(weight) for weight in weights]  # one way at a time: all of them would not fit
        exact = F.linear(rows[:1], weights[0])
        error = float((products[0](rows[:1]).float() - exact).norm() / exact.norm())

        def turn(count: int, products=products) -> float:
            given = rows[:count]
            began = clock()
            for product in products:
                product(given)
            return (clock() - began) / len(products)

        turns = {count: lambda count=count, turn=turn: turn(count) for count in options.rows}
        for run in turns.values():  # the first calls set things up
            run()
        found[name] = {"error": error, "seconds": interleave(turns, options.repetitions)}
    return found


def figures(found: dict[str, dict], elements: int) -> dict[str, dict]:
    """By way: error, GB/s at one row, speed over bfloat16's, and what more rows take of one row's time."""
    medians = {
        name: {rows: statistics.median(runs) for rows, runs in own["seconds"].items()} for name, own in found.items()
    }
    one = min(medians[REFERENCE])
    return {
        name: {
            "error": own["error"],
            "gb_per_second": elements * WAYS[name][1] / medians[name][one] / 1e9,
            "ms": {rows: 1e3 * seconds for rows, seconds in medians[name].items()},
            "speed": {rows: medians[REFERENCE][rows] / seconds for rows, seconds in medians[name].items()},
            "of_one_row": {rows: paired_ratio(runs, own["seconds"][one]) for rows, runs in own["seconds"].items()},
        }
        for name, own in found.items()
    }


def print_results(results: dict, console: Console) -> None:
    settings = results["settings"]
    counts = settings["rows"]
    title = f"Products with matrices of {settings['outputs']} x {settings['inputs']}"
    headings = [f"ms, {count} row{'s' if count > 1 else ''}" for count in counts]
    headings += ["GB/s, 1 row", *(f"x bfloat16, {count}" for count in counts)]
    headings += [f"{count} of 1 row" for count in counts[1:]]
    caption = summary_of(results["machine"], results["dtype"], results["clock"])
    table = build_table(title, "weights", *headings, "error", caption=caption)
    for name, own in results["figures"].items():
        table.add_row(
            name,
            *(number(own["ms"][count]) for count in counts),
            number(own["gb_per_second"], 1),
            *(number(own["speed"][count]) for count in counts),
            *(number(own["of_one_row"][count]) for count in counts[1:]),
            f"{own['error']:.0e}",
        )
    console.print(table)


@benchmark(__doc__, "products", repetitions=7, dtype="float32")
@option("--rows", type=Listed(POSITIVE), default=[1, 9, 17], help="Rows of a product; one first.")
@option("--outputs", type=POSITIVE, default=5632)
@option("--inputs", type=POSITIVE, default=2048)
@option("--matrices", type=POSITIVE, default=12, help="Used in turn, so that caches hold none.")
def main(options: SimpleNamespace) -> dict:
    if options.quick:
        options.outputs, options.inputs, options.matrices, options.repetitions = 96, 64, 2, 2
    results, console = start(options), build_console()
    found = measure(options)
    results["figures"] = figures(found, options.outputs * options.inputs)
    results["runs"] = found
    print_results(results, console)
    save(options, results, console)
    return results


if __name__ == "__main__":
    main()
