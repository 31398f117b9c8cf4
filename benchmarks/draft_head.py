# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What the draft head's loss and size do at equal steps on frozen weights, over several seeds.

    python -m benchmarks.draft_head --data data/demo [--steps 300] [--seeds 3] [--variants "loss: kl,hidden: 64"]

States of blocks at random bytes are computed once from the training split, and once from the validation split. Every
variant trains a fresh head on the former and drafts greedily at the latter, with the carried byte known, as `blt-dv`
does in one step. Leading correct bytes are compared with the real text. The standard error of a variant is that of its
mean over seeds; the anchors are the same for all, so differences between variants are surer than any mean alone.
"""

import math
import statistics
import time
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import torch
from fblt.training.components.train_draft_head import data_rows, load_float32
from fblt.training.evaluation.measures import share
from fblt.training.running.draft_head import BlockStates, block_states, train_head

from .harness import FILE, POSITIVE, Listed, benchmark, build_console, build_table, number, option, save, start

# Each a loss and a size: arguments of the head's config, and of its training.
VARIANTS: dict[str, tuple[dict, dict]] = {
    "loss: kl": ({}, {}),
    "loss: hard": ({"distillation": 0.0}, {}),
    "loss: kl until the first wrong byte": ({}, {"until_wrong": True}),
    "hidden: 64": ({"hidden_size": 64}, {}),
    "hidden: 256": ({"hidden_size": 256}, {}),
}
ROW_LENGTH = 512


def with_one_known(states: BlockStates, mask_offset: int = 1) -> BlockStates:
    """Those of the blocks whose first byte alone is known, as decoding has them."""
    return states.take(states.masked.sum(1) == states.masked.shape[1] - mask_offset)


@torch.inference_mode()
def leading(model, states: BlockStates) -> dict[str, torch.Tensor]:
    """Leading correct bytes of each block, `[blocks]`: by the block's own logits, by the head and by the next-byte
    head, which is fed the real text.
    """
    hidden, masked = states.hidden.to(model.dtype), states.masked
    logits = model.byte_logits(hidden)
    texts = {
        "one step": logits.argmax(-1),
        "ar": model.byte_logits(states.teacher.to(model.dtype)).argmax(-1),
    }
    if model.draft_head is not None:
        known = states.targets.masked_fill(masked, model.config.mask_token_id)
        texts["head"] = model.draft_head.fill(
            states.before[:, 0], hidden, logits, known, masked, lambda scores, i, filled: (scores, scores.argmax(-1))
        )[0]
    right = {kind: (text == states.targets) | ~masked for kind, text in texts.items()}
    known = (~masked).sum(1)
    return {kind: values.long().cumprod(1).sum(1) - known for kind, values in right.items()}


def measure(options: SimpleNamespace) -> dict:
    results = start(options)
    model, _ = load_float32(str(options.model))
    if model.draft_head is not None:
        model.draft_head = model.config.draft_head_config = None
    settings = {"data": str(options.data), "sequence_length": ROW_LENGTH, "seed": options.seed}
    rows = data_rows(settings, most_lines=options.blocks)
    train = block_states(model, rows["train"], options.blocks, options.seed, progress=False)
    # A fifth is kept: only blocks with one known byte are judged.
    wanted = options.anchors * 5 // 4 + 64
    judged = with_one_known(block_states(model, rows["validation"], wanted, 1, progress=False))
    judged = judged.take(slice(options.anchors))
    base = {kind: values.float() for kind, values in leading(model, judged).items()}
    error = {kind: float(values.std() / math.sqrt(len(values))) for kind, values in base.items()}
    results["anchors"], results["blocks"] = len(judged), len(train)
    results["base"] = {kind: {"mean": float(v.mean()), "standard_error": error[kind]} for kind, v in base.items()}
    results["variants"] = {}
    for name in options.variants:
        fields, training = VARIANTS[name]
        found = []
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            model.draft_head = model.config.draft_head_config = None
            model.add_draft_head(**fields)
            began = time.process_time()
            losses = train_head(model, train, options.steps, options.batch_size, seed=seed, progress=False, **training)
            counts = leading(model, judged)["head"].float()
            found.append(
                {
                    "seed": seed,
                    "leading_correct": float(counts.mean()),
                    "last_loss": float(np.mean(losses[-max(len(losses) // 10, 1) :])),
                    "processor_seconds": time.process_time() - began,
                }
            )
        results["variants"][name] = summary(found) | {
            "parameters": sum(weight.numel() for weight in model.draft_head.parameters())
        }
    return results


def summary(found: list[dict]) -> dict:
    """Mean over seeds and its standard error, None for one seed."""
    values = [run["leading_correct"] for run in found]
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "standard_error": error, "seeds": found}


def print_results(results: dict, console) -> None:
    base = results["base"]
    table = build_table(
        f"Leading correct bytes at {results['anchors']} anchors after training on {results['blocks']} blocks",
        "variant",
        *("mean", "+-", "of ar's", "parameters", "processor s per seed"),
        caption=f"{results['settings']['steps']} steps of {results['settings']['batch_size']} blocks; +-: standard "
        "error, of the anchors for one step and ar, of the seeds for heads",
    )
    for kind in ("one step", "ar"):
        row = base[kind]
        table.add_row(
            kind,
            number(row["mean"], 3),
            number(row["standard_error"], 3),
            number(share(row["mean"], base["ar"]["mean"]), 3),
        )
    for name, row in results["variants"].items():
        seconds = statistics.fmean(seed["processor_seconds"] for seed in row["seeds"])
        of_ar = share(row["mean"], base["ar"]["mean"])
        figures = (number(row["mean"], 3), number(row["standard_error"], 3), number(of_ar, 3))
        table.add_row(name, *figures, str(row["parameters"]), number(seconds, 0))
    console.print(table)


@benchmark(__doc__, "draft_head", repetitions=1, dtype="float32")
@option("--model", type=FILE, default=Path("checkpoints/fblt-demo"))
@option("--data", type=FILE, default=Path("data/demo"), help="Texts, or packed rows.")
@option("--steps", type=POSITIVE, default=300)
@option("--blocks", type=POSITIVE, default=20_000, help="To train on.")
@option("--anchors", type=POSITIVE, default=3000, help="To draft at.")
@option("--batch-size", type=POSITIVE, default=256)
@option("--seeds", type=POSITIVE, default=3)
@option("--variants", type=Listed(click.Choice(list(VARIANTS))), metavar="NAME", default=list(VARIANTS))
def main(options: SimpleNamespace) -> dict:
    if options.quick:
        options.steps, options.blocks, options.anchors, options.seeds = 3, 64, 32, 2
    results = measure(options)
    console = build_console()
    print_results(results, console)
    save(options, results, console)
    return results


if __name__ == "__main__":
    main()
