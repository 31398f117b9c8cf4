# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The paper's experiment at a size for a CPU: what a text is worth against what it costs, for every block size.

    python -m benchmarks.tradeoff [--threads 1] [--tasks restore,translate]
    python -m benchmarks.tradeoff --quick                     # tiny networks and few lines: shows that it runs

For each task, restoring lines (words right) and translating French and German lines to English (BLEU), one BLT is
trained on next bytes alone, or given (`--restore-base`, `--translate-base`), and adapted at equal steps to a BLT, as
before, and to BLT-D with blocks of each size, which get a draft head each. Then held-out lines are completed by every
model in every decoding. Printed and written are scores, calls of each network and Eq. 8 traffic a byte, and speed
against `ar`, beside the paper's figures, and whether each claim of the paper holds here. Data: `fblt prepare restore`
and `fblt prepare translate`.

With the defaults this takes an estimated 10 to 15 hours of one quiet core, most of it training; a line after each part
says how much is left. It may be killed at any time: the same command goes on, at the last checkpoint or batch of lines.
One seed; speeds are of batches of lines, decodings in turns.
"""

import csv
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import torch
from fblt.training.components.train_draft_head import train_draft_head
from fblt.training.evaluation.restoration.writing import restore
from fblt.training.evaluation.traffic import component_parameters, traffic_gb
from fblt.training.run import run

from fblt.files import appearing_folder, write_text_atomically
from fblt.locks import alone_in
from modeling_fblt import FBLTForCausalLM

from .harness import FILE, POSITIVE, Listed, benchmark, build_console, option, report, start
from .tradeoff_claims import Row, judge
from .tradeoff_family import (
    BASE,
    QUICK,
    TASKS,
    HeldOut,
    Part,
    Times,
    base_given,
    block_size_of,
    check_base,
    decodings,
    final_of,
    folder_of,
    head_data,
    held_out,
    load_pairs,
    model_names,
    parts,
    run_recipe,
    task_recipe,
)
from .tradeoff_report import draw, print_results
from .tradeoff_scores import MEASURES, difference, summary

PAPER = Path(__file__).parent / "results" / "paper_translation.csv"
PAPER_BYTES = 512  # that the paper's calls are for
HEAD_BLOCKS = 20_000
# Options that decide what is trained and measured: a folder of work is for one choice of them.
DECISIVE = (
    *("restore_data", "translate_data", "restore_base", "translate_base", "block_sizes"),
    *("base_steps", "adapt_steps", "head_steps", "rate", "lines", "batch_size", "quick", "seed", "dtype"),
)
NETWORKS = ("decoder", "encoder", "global", "draft_head")


def check_work(options: SimpleNamespace, settings: dict) -> None:
    """Notes what a folder of work is for, and refuses one that is for something else."""
    file = options.work / "plan.json"
    wanted = {name: settings[name] for name in DECISIVE}
    if not file.is_file():
        write_text_atomically(file, json.dumps(wanted, indent=2))
        return
    earlier = json.loads(file.read_text())
    if differing := sorted(name for name in wanted if earlier.get(name) != wanted[name]):
        raise ValueError(
            f"`--work` {str(options.work)!r} holds a run that differs in {differing}: give the same options to go on, "
            "or another folder."
        )


def train(part: Part, options: SimpleNamespace) -> None:
    """Trains a model, from its newest checkpoint if there is one; a base that was given is copied instead."""
    given = base_given(part.task, options)
    if part.model != BASE or given is None:
        run(run_recipe(part.task, part.model, options))
        return
    with appearing_folder(part.mark.parent) as written:
        shutil.copytree(given, written, dirs_exist_ok=True)


def add_head(part: Part, options: SimpleNamespace) -> None:
    """Trains a draft head for a model's weights, which stay as they are."""
    recipe = task_recipe(part.task, options)
    settings = {"data": head_data(part.task, options), **{key: recipe[key] for key in ("seed", "sequence_length")}}
    source = folder_of(part.task, part.model, options) / "final"
    anchors, blocks = (4, 16) if options.quick else (256, HEAD_BLOCKS)
    train_draft_head(str(source), settings, part.mark.parent, options.head_steps, blocks, anchors)


class Measurer:
    """Completes batches of lines; holds the model that it loaded last."""

    def __init__(self, options: SimpleNamespace):
        self.options, self.source, self.model = options, None, None

    def measure(self, part: Part, batch: HeldOut) -> None:
        """Writes the completions of one batch by every decoding, one after the other, and what they cost."""
        source = final_of(part.task, part.model, self.options)
        found = decodings(block_size_of(part.model), self.options.quick)
        if source != self.source:
            self.model = FBLTForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
            self.source = source
            restore(self.model, batch.prompts[:1], found["ar"], 1, progress=False)  # the first call sets things up
        written = {}
        for name, settings in found.items():
            done = restore(self.model, batch.prompts, settings, self.options.batch_size, progress=False)
            written[name] = vars(done)
        write_text_atomically(part.mark, json.dumps({"wanted": batch.wanted, "decodings": written}))


def work_off(options: SimpleNamespace, console) -> None:
    """Does all parts that are not done yet."""
    times = Times(options.work / "times.json")
    held = {task: held_out(task, options) for task in options.tasks}
    everything = [part for task in options.tasks for part in parts(task, held[task], options)]
    measurer = Measurer(options)
    for index, part in enumerate(everything):
        if part.mark.is_file():
            continue
        open_parts = [other for other in everything[index:] if not other.mark.is_file()]
        done = len(everything) - len(open_parts)
        console.print(
            f"{done} of {len(everything)} parts done, about {times.left(open_parts) / 3600:.1f} hours left; now "
            f"{part.task}, {part.model}: {part.kind}",
            highlight=False,
        )
        began = time.perf_counter()
        if part.kind == "steps":
            train(part, options)
        elif part.kind == "head":
            add_head(part, options)
        else:
            measurer.measure(part, held[part.task].batches(options.batch_size)[part.batch])
        write_text_atomically(options.work / "times.json", json.dumps(times.add(part, time.perf_counter() - began)))


def gather(task: str, name: str, options: SimpleNamespace) -> tuple[list[str], dict[str, dict]]:
    """A model's measured batches put together: the lines wanted, and by decoding texts, bytes, seconds and calls."""
    wanted: list[str] = []
    found: dict[str, dict] = {}
    for file in sorted((folder_of(task, name, options) / "measured").glob("*.json")):
        batch = json.loads(file.read_text())
        wanted += batch["wanted"]
        for how, done in batch["decodings"].items():
            into = found.setdefault(how, {"texts": [], "written": 0, "seconds": [], "cpu_seconds": [], "calls": {}})
            into["texts"] += done["texts"]
            into["written"] += done["written"]
            for clock in ("seconds", "cpu_seconds"):
                into[clock].append(done[clock] / done["written"])
            for network, count in done["calls"].items():
                into["calls"][network] = into["calls"].get(network, 0) + count
    return wanted, found


def figures(task: str, options: SimpleNamespace) -> dict:
    """A task's rows and answers from what was measured."""
    count, score = MEASURES[TASKS[task]]
    clock = "seconds" if options.clock == "wall" else "cpu_seconds"
    rows, counts, parameters = [], {}, {}
    for name in model_names(options.block_sizes):
        wanted, found = gather(task, name, options)
        model = FBLTForCausalLM.from_pretrained(final_of(task, name, options), dtype=torch.float32)
        parameters[name] = component_parameters(model)
        for how, done in found.items():
            counts[name, how] = count(wanted, done["texts"])
            per_byte = {network: done["calls"].get(network, 0) / done["written"] for network in NETWORKS}
            equal = [a == b for a, b in zip(done["texts"], found["ar"]["texts"], strict=True)]
            # Batch by batch: both sides saw the same machine.
            paired = [one / other for one, other in zip(found["ar"][clock], done[clock], strict=True)]
            rows.append(
                {
                    "model": name,
                    "decoding": how,
                    "bytes": done["written"],
                    **summary(counts[name, how], score, options.seed),
                    **{f"{network}_calls": calls for network, calls in per_byte.items()},
                    "traffic_mb": 1e3 * traffic_gb(per_byte, parameters[name]),
                    "speed_to_ar": float(np.median(paired)),
                    "equal_to_ar": float(np.mean(equal)),
                }
            )
    judged = {
        (row["model"], row["decoding"]): Row(
            row["score"], row["decoder_calls"], row["global_calls"], row["traffic_mb"], row["equal_to_ar"]
        )
        for row in rows
    }
    answers = judge(
        judged,
        lambda one, other: difference(counts[one], counts[other], score, options.seed),
        options.block_sizes,
    )
    return {
        "score": TASKS[task],
        "lines": len(next(iter(counts.values()))),
        "parameters": parameters,
        "rows": rows,
        "answers": [vars(answer) for answer in answers],
    }


def paper_rows(file: Path) -> list[dict]:
    """The paper's figures, calls and traffic a byte.

    Raises:
        ValueError: no such file.
    """
    if not file.is_file():
        raise ValueError(f"`--paper` {str(file)!r} does not exist: give a CSV such as benchmarks/results/{PAPER.name}.")
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [
        {
            **{key: row[key] for key in ("size", "task", "model", "method", "setting")},
            "score": float(row["score"]),
            "decoder_calls": int(row["decoder_nfe"]) / PAPER_BYTES,
            "global_calls": int(row["global_nfe"]) / PAPER_BYTES,
            "traffic_mb": 1e3 * float(row["bandwidth_gb"]) / PAPER_BYTES,
        }
        for row in csv.DictReader(lines)
    ]


def check_options(options: SimpleNamespace) -> None:
    """Raises an error before any work."""
    sizes: Sequence[int] = options.block_sizes
    if len(set(sizes)) != len(sizes) or sorted(sizes) != list(sizes):
        raise ValueError(f"`--block-sizes` is {sizes}: give each once, small ones first.")
    for task in options.tasks:
        if task == "translate":
            load_pairs(str(options.translate_data))
        check_base(task, options)
    if not 0 < options.rate <= 1:
        raise ValueError(f"`--rate` is {options.rate}: give a share of the recipe's rates, above 0 and up to 1.")


@benchmark(__doc__, "tradeoff", repetitions=1, dtype="float32")
@option("--tasks", type=Listed(click.Choice(list(TASKS))), metavar="TASK", default=list(TASKS))
@option("--restore-data", type=FILE, default=Path("data/restore"), help="Lines to restore.")
@option("--translate-data", type=FILE, default=Path("data/translate"), help="Pairs to translate.")
@option("--restore-base", type=FILE, help="A BLT that restores lines already, for all others to start from.")
@option("--translate-base", type=FILE, help="The same for translation.")
@option("--block-sizes", type=Listed(click.IntRange(2)), metavar="BYTES", default=[4, 8, 16, 32])
@option("--base-steps", type=POSITIVE, default=4000, help="Of the BLT that all others start from, if none is given.")
@option("--adapt-steps", type=POSITIVE, default=1500, help="Of every model after it.")
@option("--head-steps", type=POSITIVE, default=1500, help="Of each draft head.")
@option("--rate", type=float, default=0.5, help="Share of the recipe's learning rates in adapting.")
@option("--lines", type=POSITIVE, default=60, help="Held-out lines of each language.")
@option("--batch-size", type=POSITIVE, default=16, help="Lines that are completed together.")
@option("--paper", type=FILE, default=PAPER, help="The paper's figures.")
@option("--work", type=FILE, default=Path("runs/tradeoff"), help="Keeps weights and texts.")
def main(options: SimpleNamespace) -> dict:
    if options.quick:
        vars(options).update(QUICK)
    check_options(options)
    paper = paper_rows(options.paper)
    results, console = start(options), build_console()
    with alone_in(options.work):
        check_work(options, results["settings"])
        work_off(options, console)
        results["tasks"] = {task: figures(task, options) for task in options.tasks}
    results["paper"] = paper
    return report(options, results, console, print_results, draw)


if __name__ == "__main__":
    main()
