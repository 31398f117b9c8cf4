"""How fast the demo recipe trains on a CPU, as it stands and with each switch that may make it faster.

    python -m benchmarks.recipe_step --threads 2

A step is all that training does: forward, backward, clipping, optimizer; its rows are random bytes in patches of four
bytes on average. The switches are the recipe's `attn_implementation` and `compile_layers`, and how glibc gives memory
to large tensors (`GLIBC_TUNABLES`, Linux alone). Every turn of a candidate is a process of its own, candidates in
turns. All begin with the same weights and draw the same blocks, and their losses are compared: a switch that changes
what is learned would be none.
"""

import json
import os
import statistics
import time
from types import SimpleNamespace

import click
import torch
from fblt.training.recipe import load_recipe
from fblt.training.running.compiled import compile_layers
from fblt.training.running.optimizers import build_optimizer
from rich.console import Console

from modeling_fblt import FBLTConfig, FBLTForCausalLM

from .harness import (
    CLOCKS,
    DTYPES,
    POSITIVE,
    benchmark,
    build_console,
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
from .training import RECIPE, random_batch

# Large tensors come from huge pages and stay with the process, so that the system need not clear them at every step.
HUGE_PAGES = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "hugetlb": 1,
        "mmap_threshold": 2**33,
        "trim_threshold": 2**34,
        "top_pad": 2**28,
    }.items()
)
PLAIN = "as the recipe stands"
CANDIDATES = {
    PLAIN: {"attention": "eager"},
    "sdpa": {"attention": "sdpa"},
    "huge pages": {"attention": "eager", "pages": True},
    "compiled layers": {"attention": "eager", "compile": "inductor"},
    "all three": {"attention": "sdpa", "compile": "inductor", "pages": True},
}
QUICK = (PLAIN, "sdpa", "huge pages")
WARM_UP = 3  # steps, in which layers are compiled


def measure(options: SimpleNamespace) -> dict:
    """Set-up seconds, seconds of each step, and losses, of the candidate `options.candidate` in this process."""
    if options.threads:
        torch.set_num_threads(options.threads)
    clock, dtype = CLOCKS[options.clock], DTYPES[options.dtype]
    chosen, recipe = CANDIDATES[options.candidate], load_recipe(RECIPE)
    torch.manual_seed(options.seed)
    model = FBLTForCausalLM(FBLTConfig(**recipe["model"])).train()
    model.set_attn_implementation(chosen["attention"])
    if "compile" in chosen:
        compile_layers(model, chosen["compile"])
    optimizer = build_optimizer(model, **recipe["optimizer"])
    batch = random_batch(options.batch, options.length, "cpu")

    def step() -> float:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe["trainer"]["max_grad_norm"])
        optimizer.step()
        model.zero_grad(set_to_none=True)
        return float(loss)

    began = time.perf_counter()
    losses = [step() for _ in range(WARM_UP)]
    setup, seconds = time.perf_counter() - began, []
    for _ in range(options.steps):
        before = clock()
        losses.append(step())
        seconds.append(clock() - before)
    return {"setup": setup, "seconds": seconds, "losses": losses}


def measure_apart(candidate: str, options: SimpleNamespace) -> dict:
    """The same in a process of its own, which glibc's settings need."""
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if CANDIDATES[candidate].get("pages"):
        environment["GLIBC_TUNABLES"] = HUGE_PAGES
    names = ("dtype", "clock", "steps", "batch", "length", "seed", "threads")
    return in_own_process("benchmarks.recipe_step", options, names, "--candidate", candidate, environment=environment)


def compare(runs: dict[str, list[dict]], step_bytes: int) -> dict[str, dict]:
    """Bytes a second, speed over the plain candidate's, set-up and largest difference of losses, by candidate."""
    seconds = {name: [statistics.median(run["seconds"]) for run in own] for name, own in runs.items()}
    plain = runs[PLAIN][0]["losses"]
    return {
        name: {
            "bytes_per_second": step_bytes / statistics.median(seconds[name]),
            "speed": paired_ratio(seconds[PLAIN], seconds[name]),
            "setup": statistics.median(run["setup"] for run in own),
            "loss_difference": max(
                abs(loss - other) / abs(other) for run in own for loss, other in zip(run["losses"], plain, strict=True)
            ),
        }
        for name, own in runs.items()
    }


def print_results(results: dict, console: Console) -> None:
    line = summary_of(results["machine"], results["dtype"], results["clock"])
    title = f"The demo recipe's step, {results['settings']['batch']} x {results['settings']['length']} bytes"
    table = build_table(title, "switch", "bytes/s", "speed", "first steps, s", "losses differ by", caption=line)
    for name, found in results["candidates"].items():
        difference = f"{found['loss_difference']:.0e}"
        table.add_row(
            name, number(found["bytes_per_second"], 0), number(found["speed"]), number(found["setup"], 1), difference
        )
    console.print(table)
    console.print(f"huge pages: GLIBC_TUNABLES={HUGE_PAGES}", highlight=False, soft_wrap=True)


@benchmark(__doc__, "recipe_step", repetitions=3, dtype="bfloat16")
@option("--steps", type=POSITIVE, default=10, help="Timed steps of a turn.")
@option("--batch", type=POSITIVE, default=8, help="Rows of a step.")
@option("--length", type=POSITIVE, default=512, help="Bytes of a row.")
@option("--candidate", type=click.Choice(list(CANDIDATES)), hidden=True)
def main(options: SimpleNamespace) -> dict:
    if options.candidate is not None:
        print(json.dumps(measure(options)))
        return {}
    names = list(CANDIDATES)
    if options.quick:
        names, options.steps, options.batch, options.length, options.repetitions = list(QUICK), 2, 2, 64, 1
    results, console = start(options), build_console()
    runs = interleave({name: lambda name=name: measure_apart(name, options) for name in names}, options.repetitions)
    results["candidates"] = compare(runs, options.batch * options.length)
    results["runs"] = runs
    print_results(results, console)
    save(options, results, console)
    return results


if __name__ == "__main__":
    main()
