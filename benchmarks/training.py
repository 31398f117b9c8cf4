# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What a training step costs: against the length of rows, with and without blocks, and against transformers' BLT.

    python -m benchmarks.training [--quick]

Steps are forward and backward passes, under autocast if the dtype is not float32, over random bytes in patches of four
bytes on average, with patch starts given, as training data has them. Three tables:

- time and peak memory of a BLT-D step for rows of each length, every point in a process of its own;
- a BLT-D step, of all blocks and of half of them, over a BLT step (the next-byte loss alone), in turns in one process;
- a BLT step of transformers' `BltForCausalLM` over this one's, with the same weights and the same loss, in turns.
"""

import copy
import json
import re
import resource
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import click
import torch
from fblt.training.recipe import PAPER, load_recipe
from fblt.training.running.optimizers import build_optimizer
from rich.console import Console
from torch import nn
from transformers import BltForCausalLM

from modeling_fblt import FBLTConfig, FBLTForCausalLM

from .harness import (
    CLOCKS,
    DTYPES,
    POSITIVE,
    REPOSITORY,
    benchmark,
    build_table,
    in_own_process,
    interleave,
    number,
    option,
    paired_ratio,
    save,
    start,
    summary_of,
)
from .transformers_blt import transformers_twin

RECIPE = REPOSITORY / "training/recipes/demo.yaml"
LENGTHS = (512, 1024, 2048, 4096, 8192)
QUICK_LENGTHS = (128, 256)
MEAN_PATCH_LENGTH = 4
# The paper's objective with every block, whatever the recipe trains with.
OBJECTIVE = {**PAPER, "block_size": 8}
# BLT-1B's layers at a quarter of its width: the share of the global transformer is what blocks are measured against.
QUARTER_1B = {
    "encoder_config": {
        "hidden_size": 256,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 704,
        "hash_vocab_size": 6007,
    },
    "global_config": {
        "hidden_size": 512,
        "num_hidden_layers": 25,
        "num_attention_heads": 4,
        "intermediate_size": 1408,
    },
    "decoder_config": {"hidden_size": 256, "num_hidden_layers": 9, "num_attention_heads": 4, "intermediate_size": 704},
    "patcher_config": {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128},
}
# A plain BLT: what transformers' class computes too.
PLAIN = {"block_size": None, "max_patch_length": None, "isolate_documents": False}
Step = Callable[[], float]


def geometry(name: str) -> dict:
    """Fields of the config: those of the demo recipe's model, or `"quarter-1b"`."""
    return load_recipe(RECIPE)["model"] if name == "demo" else QUARTER_1B


def build_model(fields: dict, attention: str, device: str, **changes) -> FBLTForCausalLM:
    torch.manual_seed(0)
    model = FBLTForCausalLM(FBLTConfig(**{**fields, **OBJECTIVE, **changes})).to(device).train()
    model.set_attn_implementation(attention)
    return model


def random_batch(batch: int, length: int, device: str) -> dict[str, torch.Tensor]:
    """Rows `[batch, length]` of random bytes after `<s>`, and patch starts `[batch, length + 1]`."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(256, (batch, length), generator=generator) + 4
    ids[:, 0] = 1
    starts = torch.rand(batch, length + 1, generator=generator) < 1 / MEAN_PATCH_LENGTH
    starts[:, :2] = True
    return {"input_ids": ids.to(device), "labels": ids.to(device), "patch_starts": starts.to(device)}


def patch_lengths(starts: torch.Tensor) -> torch.Tensor:
    """Bytes of each patch `[batch, patches]`, as transformers' BLT takes them; 0 fills up rows with fewer patches.

    Args:
        starts: `[batch, n + 1]`. A patch that starts at the next position has no bytes yet.
    """
    patches = int(starts.sum(1).max())
    index = starts.long().cumsum(1)[:, :-1] - 1
    lengths = torch.zeros(len(starts), patches, dtype=torch.long, device=starts.device)
    return lengths.scatter_add(1, index, torch.ones_like(index))


def build_clock(name: str, device: str) -> Callable[[], float]:
    if device == "cpu":
        return CLOCKS[name]

    def synchronized() -> float:
        torch.cuda.synchronize()
        return CLOCKS["wall"]()

    return synchronized


def build_step(
    model: nn.Module,
    batch: dict[str, torch.Tensor],
    dtype: torch.dtype,
    clock: Callable[[], float],
    optimizer: torch.optim.Optimizer | None = None,
) -> Step:
    """A function that does one training step and returns its seconds."""
    device = batch["input_ids"].device.type

    def step() -> float:
        began = clock()
        with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
            loss = model(**batch).loss
        loss.backward()
        if optimizer is not None:
            optimizer.step()
        model.zero_grad(set_to_none=True)
        return clock() - began

    return step


# --- time and memory against length, a process for every point ---


def peak_bytes(device: str) -> int:
    """The most memory that this process has held so far; on a GPU, that torch has allocated there."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():  # a child's `ru_maxrss` begins at its parent's there
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure_point(options: SimpleNamespace) -> dict[str, float]:
    """Seconds and memory of steps over one row of `options.point` bytes."""
    if options.threads:
        torch.set_num_threads(options.threads)
    clock, dtype = build_clock(options.clock, options.device), DTYPES[options.dtype]
    model = build_model(geometry("demo"), options.attention, options.device)
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    batch = random_batch(1, options.point, options.device)
    optimizer = build_optimizer(model, **load_recipe(RECIPE)["optimizer"])
    before = peak_bytes(options.device)
    step = build_step(model, batch, dtype, clock)
    step()  # the first sets things up
    seconds = [step() for _ in range(options.repetitions)]
    peak = peak_bytes(options.device)
    whole = build_step(model, batch, dtype, clock, optimizer)
    whole()
    with_optimizer = [whole() for _ in range(options.repetitions)]
    return {
        "length": options.point,
        "seconds": statistics.median(seconds),
        "seconds_with_optimizer": statistics.median(with_optimizer),
        "peak_bytes": peak,
        "step_bytes": peak - before,
        "peak_bytes_with_optimizer": peak_bytes(options.device),
    }


def sweep(options: SimpleNamespace, lengths: tuple[int, ...]) -> list[dict[str, float]]:
    names = ("dtype", "clock", "device", "attention", "repetitions", "threads")
    flags = ["--gradient-checkpointing"] if options.gradient_checkpointing else []
    return [in_own_process("benchmarks.training", options, names, "--point", str(length), *flags) for length in lengths]


# --- ratios, in turns within one process ---


def block_ratios(options: SimpleNamespace, name: str, batch: dict[str, torch.Tensor]) -> dict:
    """A BLT-D step over a BLT step."""
    clock, dtype = build_clock(options.clock, options.device), DTYPES[options.dtype]
    kinds = {"blt": {"diffusion_loss_weight": 0.0}, "blt-d": {}, "blt-d, half of the blocks": {"block_fraction": 0.5}}
    steps = {}
    for kind, changes in kinds.items():
        model = build_model(geometry(name), options.attention, options.device, **changes)
        steps[kind] = build_step(model, batch, dtype, clock)
    return compare(steps, "blt", options.repetitions)


def twins(options: SimpleNamespace) -> tuple[FBLTForCausalLM, BltForCausalLM]:
    """A plain BLT of the demo's geometry, and transformers' of the same weights."""
    fields = copy.deepcopy(geometry("demo"))
    fields["decoder_config"]["input"] = "encoder"
    model = build_model(fields, options.attention, options.device, **PLAIN)
    return model, transformers_twin(model).model.train()


def transformers_ratios(options: SimpleNamespace, batch: dict[str, torch.Tensor]) -> dict:
    """A step of transformers' BLT over a BLT step, next-byte loss alone; their losses are compared first.

    Raises:
        RuntimeError: the losses differ, so that the times would say nothing.
    """
    clock, dtype = build_clock(options.clock, options.device), DTYPES[options.dtype]
    model, twin = twins(options)
    theirs = {"input_ids": batch["input_ids"], "labels": batch["labels"], "use_cache": False}
    theirs["patch_lengths"] = patch_lengths(batch["patch_starts"])
    with torch.no_grad():
        losses = float(model(**batch).loss), float(twin(**theirs).loss)
    if abs(losses[0] - losses[1]) > 1e-4 * losses[0]:
        raise RuntimeError(f"transformers' BLT has the loss {losses[1]}, this one {losses[0]}: they do not compare")
    steps = {"blt": build_step(model, batch, dtype, clock)}
    for attention in ("sdpa", "eager"):
        steps[f"transformers, {attention}"] = with_attention(twin, attention, build_step(twin, theirs, dtype, clock))
    return {**compare(steps, "blt", options.repetitions), "losses": losses}


def with_attention(model: nn.Module, attention: str, step: Step) -> Step:
    def run() -> float:
        model.set_attn_implementation(attention)
        return step()

    return run


def compare(steps: dict[str, Step], base: str, repetitions: int) -> dict:
    for step in steps.values():
        step()  # the first sets things up
    runs = interleave(steps, repetitions)
    ratios = {name: paired_ratio(seconds, runs[base]) for name, seconds in runs.items()}
    spread = {
        name: [f(a / b for a, b in zip(runs[name], runs[base], strict=True)) for f in (min, max)] for name in runs
    }
    medians = {name: statistics.median(seconds) for name, seconds in runs.items()}
    return {"seconds": medians, "ratios": ratios, "ratio_range": spread, "runs": runs}


# --- tables ---


def print_results(results: dict, console: Console) -> None:
    line = summary_of(results["machine"], results["dtype"], results["clock"])
    points = results["lengths"]
    table = build_table(
        "A BLT-D step over one row, demo geometry, all blocks of 8",
        "bytes",
        "ms",
        "ms with optimizer",
        "bytes/s",
        "peak MB",
        "MB of the step",
        "time to previous",
        "memory to previous",
        caption=line,
    )
    for before, point in zip([None, *points], points, strict=False):
        growth = [
            None if before is None or not before[field] else point[field] / before[field]
            for field in ("seconds", "step_bytes")
        ]
        table.add_row(
            str(point["length"]),
            number(1e3 * point["seconds"], 0),
            number(1e3 * point["seconds_with_optimizer"], 0),
            number(point["length"] / point["seconds"], 0),
            number(point["peak_bytes"] / 1e6, 0),
            number(point["step_bytes"] / 1e6, 0),
            *(number(value) for value in growth),
        )
    console.print(table)
    titles = {
        "blocks": "Blocks of 8 against the next-byte loss alone, demo geometry",
        "blocks_quarter_1b": "The same, BLT-1B's layers at a quarter of its width",
        "transformers": "transformers' BLT, next-byte loss alone, demo geometry, decoder input 'encoder'",
    }
    for key, title in titles.items():
        if key not in results:
            continue
        table = build_table(f"{title}, {results['shapes'][key]} bytes", "step", "ms", "over blt", "range")
        for name, seconds in results[key]["seconds"].items():
            low, high = results[key]["ratio_range"][name]
            ratio = number(results[key]["ratios"][name])
            table.add_row(name, number(1e3 * seconds, 0), ratio, f"{low:.2f} .. {high:.2f}")
        console.print(table)


@benchmark(__doc__, "training", repetitions=7, dtype="bfloat16")
@option("--device", type=click.Choice(("cpu", "cuda")), default="cpu")
@option("--attention", default="eager", help="Attention implementation of the FBLT models.")
@option("--batch", type=POSITIVE, default=8, help="Rows of a step in the ratios.")
@option("--length", type=POSITIVE, default=512, help="Bytes of a row in the ratios.")
@option("--gradient-checkpointing", is_flag=True, help="In the steps against length.")
@option("--point", type=POSITIVE, hidden=True)
def main(options: SimpleNamespace) -> dict:
    if options.point is not None:
        print(json.dumps(measure_point(options)))
        return {}
    lengths = LENGTHS
    if options.quick:
        lengths, options.batch, options.length, options.repetitions = QUICK_LENGTHS, 2, 128, 2
    results, console = start(options), Console()
    batch = random_batch(options.batch, options.length, options.device)
    shape = f"{options.batch} x {options.length}"
    results["shapes"] = {"blocks": shape, "transformers": shape}
    results["lengths"] = sweep(options, lengths)
    results["blocks"] = block_ratios(options, "demo", batch)
    if not options.quick:
        results["blocks_quarter_1b"] = block_ratios(options, "quarter-1b", random_batch(1, 1024, options.device))
        results["shapes"]["blocks_quarter_1b"] = "1 x 1024"
    results["transformers"] = transformers_ratios(options, batch)
    print_results(results, console)
    save(options, results, console)
    return results


if __name__ == "__main__":
    main()
