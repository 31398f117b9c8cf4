"""A whole model at BLT-1B's shape with 8-bit products against bfloat16, in turns.

    python -m benchmarks.eight_bits --threads 2

`python -m benchmarks.products` finds that products with 8-bit weights and activations (torch's dynamic quantisation,
fbgemm's kernels) read the weights of a lone row more than twice as fast as bfloat16's on a CPU. Here all maps of the
encoder, the global transformer and the decoder are such, with a scale for each output; embeddings and norms stay in
float32. So does the patcher, and no boundary moves; or it is 8-bit too. `ar` and drafts verified write text, with
random weights and the paper's acceptance, as in `python -m benchmarks.replay`. What the rounding does is told by the
error of next-byte logits, by a trained checkpoint's bits per byte on held-out text, and by its boundaries: the share
of positions where one is lost or new.

One scale is for the activations of a whole call. So a row's result hangs on the rows beside it, and a verified decoding
need not write `ar`'s text.
"""

import copy
import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import click
import torch
from fblt.training.evaluation.next_bytes import next_byte_figures
from fblt.training.evaluation.samples import EncodedDocument, cut_rows, encode, limit, load_split
from rich.console import Console
from torch import nn

from modeling_fblt import FBLTForCausalLM
from modeling_fblt.configuration_fblt import BYTE_OFFSET, MASK_ID

from .continuing import MOST_NEW
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
from .replay import LABEL, PAPER_ROWS, scripted_config, scripts, turns_of

MODES = ("ar", "blt-s 8", "blt-dv 8")
WAYS = ("bfloat16", "8 bits", "8 bits, patcher too")
ROW, ROWS = 512, 8  # bytes and number of the rows that bits per byte are measured in


def quantize(model: FBLTForCausalLM, patcher: bool = False) -> FBLTForCausalLM:
    """Makes the maps of a float32 model's networks 8-bit, the patcher's only if asked, and returns it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means its workflow for other models to move to torchao
        per_output = torch.ao.quantization.per_channel_dynamic_qconfig
        for name, network in model.model.named_children():
            if name != "patcher" or patcher:
                torch.ao.quantization.quantize_dynamic(network, {nn.Linear: per_output}, torch.qint8, inplace=True)
    return model


@torch.inference_mode()
def logit_error(found: nn.Module, exact: torch.Tensor, ids: torch.Tensor) -> float:
    """How far a model's next-byte logits are from the `exact` ones, relative to their spread."""
    logits, exact = (part[..., BYTE_OFFSET:MASK_ID].float() for part in (found(ids, use_cache=False).logits, exact))
    return float((logits - exact).square().mean().sqrt() / exact.std())


def trained_figures(options: SimpleNamespace) -> dict[str, dict[str, float]]:
    """Bits per byte of a trained checkpoint on held-out text, and the share of boundaries that moved, in each way."""
    dataset, _ = load_split(options.data, "test")
    documents = encode(limit(dataset, options.text_bytes, options.seed))
    model = FBLTForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    starts = patch_starts(model, documents)
    return {
        name: {
            "bits_per_byte": next_byte_figures(way, documents, ROW, ROWS)["all"]["bits_per_byte"],
            "boundaries_moved": float((patch_starts(way, documents) != starts).double().mean()),
        }
        for name, way in {"float32": copy.deepcopy(model), **ways_of(model)}.items()
    }


@torch.inference_mode()
def patch_starts(model: FBLTForCausalLM, documents: Sequence[EncodedDocument]) -> torch.Tensor:
    """Whether a patch starts at each position of all rows, one after the other: `[positions]`."""
    rows = (torch.as_tensor(row.ids)[None] for row in cut_rows(documents, ROW))
    return torch.cat([model.patch(ids).patch_starts[0] for ids in rows])


def ways_of(model: FBLTForCausalLM) -> dict[str, FBLTForCausalLM]:
    """A float32 model in each of `WAYS`; it becomes one of them itself."""
    rounded = copy.deepcopy(model).bfloat16()
    eight = quantize(model)
    return dict(zip(WAYS, (rounded, eight, quantize(copy.deepcopy(eight), patcher=True)), strict=True))


def figures(runs: dict[tuple[str, str], list[dict]]) -> dict[str, dict]:
    """By mode and way: seconds a byte, and speed against bfloat16 and against `ar` in the same way."""
    seconds = {key: [turn["seconds_per_byte"] for turn in turns] for key, turns in runs.items()}
    return {
        mode: {
            "bytes_per_iteration": runs[mode, WAYS[0]][0]["bytes_per_iteration"],
            "seconds_per_byte": {way: statistics.median(seconds[mode, way]) for way in WAYS},
            "speed_to_bfloat16": {way: paired_ratio(seconds[mode, WAYS[0]], seconds[mode, way]) for way in WAYS},
            "speed_to_ar": {way: paired_ratio(seconds["ar", way], seconds[mode, way]) for way in WAYS},
        }
        for mode in dict.fromkeys(mode for mode, _ in runs)
    }


def print_results(results: dict, console: Console) -> None:
    table = build_table(
        f"{LABEL}: {results['geometry']} geometry, 8 bits against bfloat16",
        "mode", "weights", "B/iter", "ms/B", "x bfloat16", "x ar",
        caption=summary_of(results["machine"], "bfloat16 and 8 bits", results["clock"]),
    )  # fmt: skip
    for mode, found in results["figures"].items():
        for way in WAYS:
            table.add_row(
                mode,
                way,
                number(found["bytes_per_iteration"], 1),
                number(1e3 * found["seconds_per_byte"][way], 1),
                number(found["speed_to_bfloat16"][way]),
                number(found["speed_to_ar"][way]),
            )
        table.add_section()
    console.print(table)
    errors = ", ".join(f"{way} {error:.2%}" for way, error in results["logit_errors"].items())
    console.print(f"error of next-byte logits, of their spread: {errors}", highlight=False)
    for way, found in results["trained"].items():
        console.print(
            f"{results['model']}, {way}: {found['bits_per_byte']:.4f} bits per byte, a boundary lost or new at "
            f"{found['boundaries_moved']:.2%} of positions",
            highlight=False,
        )


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
    model = random_model(scripted_config(options.geometry, modes), torch.float32)
    ids = random_prompt(1, options.prefix, options.seed)
    with torch.inference_mode():
        exact = model(ids, use_cache=False).logits
    models = ways_of(model)
    turns = {
        (mode, way): turn
        for way, changed in models.items()
        for mode, turn in turns_of(changed, ids, modes, options.patch_length, options.new_bytes, clock).items()
    }
    runs = interleave(turns, options.repetitions)
    results |= {
        "geometry": options.geometry,
        "prefix": options.prefix,
        "hash_rows": HASH_ROWS,
        "model": options.model,
        "figures": figures(runs),
        "logit_errors": {way: logit_error(changed, exact, ids) for way, changed in models.items()},
        "trained": trained_figures(options) if options.data.exists() and not options.quick else {},
    }
    print_results(results, console)
    save(options, results, console)
    return results


if __name__ == "__main__":
    main()
