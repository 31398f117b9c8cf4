"""A whole model at BLT-1B's shape with 8-bit products against bfloat16, in turns.

    python -m benchmarks.eight_bits --threads 2

`python -m benchmarks.products` finds that products with 8-bit weights and activations (torch's dynamic quantisation,
fbgemm's kernels) read the weights of a lone row more than twice as fast as bfloat16's on a CPU. Here all maps of the
encoder, the global transformer and the decoder are such, with a scale for each output; the patcher stays in float32, so
that no boundary moves, and so do embeddings and norms. `ar` and drafts verified write text, with random weights and the
paper's acceptance, as in `python -m benchmarks.replay`. What the rounding does is told twice: the error of next-byte
logits, and the bundled checkpoint's bits per byte on held-out text.

One scale is for the activations of a whole call. So a row's result hangs on the rows beside it, and a verified decoding
need not write `ar`'s text.
"""

import copy
import statistics
import warnings
from pathlib import Path
from types import SimpleNamespace

import click
import torch
from fblt.training.evaluation.next_bytes import next_byte_figures
from fblt.training.evaluation.samples import encode, limit, load_split
from rich.console import Console
from torch import nn

from modeling_fblt import FBLTForCausalLM

from .continuing import MOST_NEW, Prefix
from .harness import (
    CLOCKS,
    FILE,
    POSITIVE,
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
from .random_models import GEOMETRIES, HASH_ROWS, random_model, random_prompt
from .replay import LABEL, PAPER_ROWS, run, scripted, scripts

MODES = ("ar", "blt-s 8", "blt-dv 8")
WAYS = ("bfloat16", "8 bits")
ROW, ROWS = 512, 8  # bytes and number of the rows that bits per byte are measured in


def quantize(model: FBLTForCausalLM) -> FBLTForCausalLM:
    """Makes all maps of a float32 model 8-bit, but the patcher's and the draft head's, and returns it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means its workflow for other models to move to torchao
        per_output = torch.ao.quantization.per_channel_dynamic_qconfig
        for name, network in model.model.named_children():
            if name != "patcher":
                torch.ao.quantization.quantize_dynamic(network, {nn.Linear: per_output}, torch.qint8, inplace=True)
    return model


@torch.inference_mode()
def logit_error(found: nn.Module, exact: torch.Tensor, ids: torch.Tensor) -> float:
    """How far a model's next-byte logits are from the `exact` ones, relative to their spread."""
    logits = found(ids, use_cache=False).logits[..., 4:260].float()
    exact = exact[..., 4:260]
    return float((logits - exact).square().mean().sqrt() / exact.std())


def bits_per_byte(options: SimpleNamespace) -> dict[str, float]:
    """Of a trained checkpoint on held-out text, in each way and in float32."""
    dataset, _ = load_split(options.data, "test")
    documents = encode(limit(dataset, options.text_bytes, options.seed))
    model = FBLTForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    ways = {"float32": model, "bfloat16": copy.deepcopy(model).bfloat16(), "8 bits": quantize(copy.deepcopy(model))}
    return {name: next_byte_figures(way, documents, ROW, ROWS)["all"]["bits_per_byte"] for name, way in ways.items()}


def figures(runs: dict[tuple[str, str], list[dict]]) -> dict[str, dict]:
    """By mode: seconds a byte in each way, how much faster 8 bits are, and in each way the mode against `ar`."""
    seconds = {key: [turn["seconds_per_byte"] for turn in turns] for key, turns in runs.items()}
    return {
        mode: {
            "bytes_per_iteration": runs[mode, WAYS[0]][0]["bytes_per_iteration"],
            "seconds_per_byte": {way: statistics.median(seconds[mode, way]) for way in WAYS},
            "speed_to_bfloat16": paired_ratio(seconds[mode, WAYS[0]], seconds[mode, WAYS[1]]),
            "speed_to_ar": {way: paired_ratio(seconds["ar", way], seconds[mode, way]) for way in WAYS},
        }
        for mode in dict.fromkeys(mode for mode, _ in runs)
    }


def print_results(results: dict, console: Console) -> None:
    line = summary_of(results["machine"], "bfloat16 and 8 bits", results["clock"])
    table = build_table(
        f"{LABEL}: {results['geometry']} geometry, 8 bits against bfloat16",
        "mode", "B/iter", "ms/B, bf16", "ms/B, 8 bits", "x bf16", "x ar, bf16", "x ar, 8 bits",
        caption=line,
    )  # fmt: skip
    for mode, found in results["figures"].items():
        table.add_row(
            mode,
            number(found["bytes_per_iteration"], 1),
            *(number(1e3 * found["seconds_per_byte"][way], 1) for way in WAYS),
            number(found["speed_to_bfloat16"]),
            *(number(found["speed_to_ar"][way]) for way in WAYS),
        )
    console.print(table)
    errors = ", ".join(f"{way} {error:.2%}" for way, error in results["logit_errors"].items())
    console.print(f"error of next-byte logits, of their spread: {errors}", highlight=False)
    if results["bits_per_byte"]:
        bits = ", ".join(f"{way} {found:.4f}" for way, found in results["bits_per_byte"].items())
        console.print(f"bits per byte of {results['model']}: {bits}", highlight=False)


@benchmark(__doc__, "eight_bits", repetitions=3, dtype="float32")
@option("--geometry", type=click.Choice(list(GEOMETRIES)), default="1b")
@option("--prefix", type=POSITIVE, default=512, help="Bytes before the first new one.")
@option("--new-bytes", type=POSITIVE, default=64, help=f"at most {MOST_NEW - 1}.")
@option("--patch-length", type=POSITIVE, default=4, help="Bytes of every patch.")
@option("--model", default="checkpoints/fblt-demo", help="Trained checkpoint, for bits per byte.")
@option("--data", type=FILE, default=Path("data/demo"), help="Its held-out text; no bits per byte without.")
@option("--text-bytes", type=POSITIVE, default=100_000)
def main(options: SimpleNamespace) -> dict:
    if options.quick:
        options.geometry, options.prefix, options.new_bytes, options.repetitions = "tiny", 64, 48, 1
    results, console, clock = start(options), build_console(), CLOCKS[options.clock]
    modes = [script for script in scripts(list(PAPER_ROWS)) if script.name in MODES]
    config = GEOMETRIES[options.geometry](block_size=max(script.drafted for script in modes) + 1)
    config.max_patch_length = None  # boundaries are scripted
    model = random_model(config, torch.float32)
    ids = random_prompt(1, options.prefix, options.seed)
    with torch.inference_mode():
        exact = model(ids, use_cache=False).logits
    models = {WAYS[0]: copy.deepcopy(model).bfloat16(), WAYS[1]: quantize(model)}
    turns = {}
    for way, changed in models.items():
        with scripted(modes[0], options.patch_length):
            prefix = Prefix.read(changed, ids)
        for script in modes:

            def turn(changed=changed, prefix=prefix, script=script) -> dict:
                return run(changed, prefix, script, options.patch_length, options.new_bytes, clock)

            turn()  # the first calls set things up
            turns[script.name, way] = turn
    runs = interleave(turns, options.repetitions)
    results |= {
        "geometry": options.geometry,
        "prefix": options.prefix,
        "hash_rows": HASH_ROWS,
        "model": options.model,
        "figures": figures(runs),
        "logit_errors": {way: logit_error(changed, exact, ids) for way, changed in models.items()},
        "bits_per_byte": bits_per_byte(options) if options.data.exists() and not options.quick else {},
    }
    print_results(results, console)
    save(options, results, console)
    return results


if __name__ == "__main__":
    main()
