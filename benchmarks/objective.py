# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What each option of the training objective does in equal time: bits per byte, and how good drafts are.

    python -m benchmarks.objective --data data/demo [--seconds 150] [--variants "demo recipe,corruption: uniform"]

The checkpoint first forgets to draft: `<mask>` gets the mean of the other bytes' embeddings, and some steps are trained
on next bytes alone. From there every variant of the demo recipe trains on, with a new optimizer, for as many steps as
fit into `--seconds`: its steps are timed first, so cheaper ones make more of them. The learning rate begins at a share
of the recipe's and falls to 0. Documents of the validation split are evaluated. One seed: small differences say little.

A variant that stands in `--output` already, made under the same options, is not run again: an interrupted run goes on.
"""

import copy
import hashlib
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import click
from datasets import Dataset
from fblt.conversion.add_diffusion import mask_embedding
from fblt.training.evaluation.drafts import draft_figures
from fblt.training.evaluation.measures import distinct_ngrams, mean, share
from fblt.training.evaluation.next_bytes import next_byte_figures
from fblt.training.evaluation.samples import (
    Anchor,
    EncodedDocument,
    Prompt,
    draw_anchors,
    draw_prompts,
    encode,
    limit,
    load_split,
)
from fblt.training.evaluation.writing import NGRAM, settings_of, write
from fblt.training.packing.run_rows import rows_for_model
from fblt.training.packing.sequences import collate
from fblt.training.recipe import OBJECTIVE, PAPER, load_recipe
from fblt.training.run import load_initial
from fblt.training.trainer import FBLTTrainer
from transformers import TrainerCallback, TrainingArguments, set_seed

from fblt.files import appearing_folder
from modeling_fblt.configuration_fblt import MASK_ID

from .harness import CLOCKS, FILE, POSITIVE, Listed, benchmark, build_console, build_table, number, option, save, start

RECIPE = Path("training/recipes/demo.yaml")
BASE = "demo recipe"
# What each changes in the sections of the recipe; everything else stays.
LINEAR = {"lr_scheduler_type": "linear", "lr_scheduler_kwargs": {}, "warmup_steps": 10}
NEXT_BYTE = {"model": {"diffusion_loss_weight": 0.0}}
VARIANTS: dict[str, dict[str, dict]] = {
    BASE: {},
    "corruption: uniform": {"model": {"corruption": "uniform"}},
    "corruption: per_block": {"model": {"corruption": "per_block"}},
    "corruption: prefix": {"model": {"corruption": "prefix"}},
    "draft_fraction: 0.5": {"model": {"draft_fraction": 0.5}},
    "diffusion_loss_weight: 1": {"model": {"diffusion_loss_weight": 1.0}},
    "diffusion_loss_weight: 0": NEXT_BYTE,
    "block_fraction: 1": {"model": {"block_fraction": 1.0}},
    "random_anchor_fraction: 0": {"model": {"random_anchor_fraction": 0.0}},
    "distillation: 0": {"model": {"distillation": 0.0}},
    "block_size: 4": {"model": {"block_size": 4}},
    "block_size: 16": {"model": {"block_size": 16}},
    "optimizer: adamw": {"optimizer": {"name": "adamw"}},
    "schedule: cosine": {"trainer": {"lr_scheduler_type": "cosine"}},
    "schedule: warmup_stable_decay": {
        "trainer": {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"decay_type": "linear"}}
    },
    "the paper's objective": {"model": PAPER},
}
# Options that figures depend on.
COMPARED_UNDER = (
    *("recipe", "data", "model", "forget", "seconds", "rate", "steps"),
    *("quick", "seed", "dtype", "clock", "threads"),
)
STABLE_SHARE = 0.5  # of a warmup_stable_decay run
TIMED_STEPS, FIRST_STEPS = 12, 3  # the first ones set things up
# Evaluation, of the validation split.
MAX_BYTES, ROW_LENGTH, BATCH = 100_000, 512, 32
ANCHORS, BYTES_BEFORE = 1000, 256
PROMPTS, PROMPT_BYTES, NEW_BYTES = 12, 160, 128


class StepTimes(TrainerCallback):
    """Seconds between the ends of steps."""

    def __init__(self, clock):
        self.clock, self.ends = clock, []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(self.clock())

    def typical(self) -> float:
        ends = self.ends[FIRST_STEPS:]
        return statistics.median(after - before for before, after in zip(ends, ends[1:], strict=False))


def varied(recipe: dict, changes: Mapping[str, dict], rate: float) -> dict:
    """The recipe with a variant's changes, and with learning rates of `rate` times its own."""
    recipe = copy.deepcopy(recipe)
    recipe["trainer"] |= LINEAR
    for section, fields in changes.items():
        recipe[section] |= fields
    for name in ("learning_rate", "muon_learning_rate"):
        recipe["optimizer"][name] *= rate
    return recipe


def train(recipe: dict, model, rows: Dataset, steps: int, seed: int, clock) -> StepTimes:
    """`steps` steps of a plain run, of which nothing is kept but the model."""
    set_seed(seed)
    times = StepTimes(clock)
    settings = {k: v for k, v in recipe["trainer"].items() if not k.startswith(("eval_", "save_", "logging_"))}
    if settings["lr_scheduler_type"] == "warmup_stable_decay":
        decay = {"num_decay_steps": round(steps * (1 - STABLE_SHARE)), "min_lr_ratio": 0.0}
        settings["lr_scheduler_kwargs"] = settings["lr_scheduler_kwargs"] | decay
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            **settings | {"max_steps": steps, "report_to": [], "save_strategy": "no", "seed": seed},
            logging_strategy="no",
        )
        trainer = FBLTTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=collate,
            callbacks=[times],
            recipe_optimizer=recipe["optimizer"],
            anchors=[],
        )
        trainer.train()
    return times


def judge(model, documents: Sequence[EncodedDocument], anchors: Sequence[Anchor], prompts: Sequence[Prompt], seed: int):
    """Figures of a model. Anchors hold the bytes of the longest block; a shorter one drafts as many as it has."""
    model.eval()
    drafted = model.config.block_size - 1
    anchors = [Anchor(a.source, a.context, a.carried, a.real[:drafted]) for a in anchors]
    drafts = draft_figures(model, anchors, BATCH, seed)
    texts, counters = write(model, prompts, settings_of(model)["blt-d"], NEW_BYTES, BATCH)
    written = sum(len(text) for text in texts)
    return {
        "bits_per_byte": next_byte_figures(model, documents, ROW_LENGTH, BATCH)["all"]["bits_per_byte"],
        "one_step": drafts["one_step"]["leading_correct"],
        "blt_s": drafts["blt-s"]["leading_correct"],
        "blt_d_decoder_calls_per_byte": int(counters.decoder_nfe.sum()) / written,
        "blt_d_distinct_8grams": mean([distinct_ngrams(text, NGRAM) for text in texts]),
    }


def forgetful(options, recipe: dict, rows: Dataset, clock) -> Path:
    """The checkpoint after `options.forget` steps on next bytes, with an embedding of `<mask>` that says nothing: where
    variants begin. Made once for the same options.
    """
    made_under = {name: str(getattr(options, name)) for name in COMPARED_UNDER if name not in ("seconds", "steps")}
    digest = hashlib.sha256(json.dumps(made_under).encode()).hexdigest()[:16]
    folder = options.rows / f"beginning-{digest}"
    if not folder.is_dir():
        model = load_initial(options.model, recipe["model"])
        train(recipe, model, rows, options.forget, options.seed, clock)
        table = model.model.decoder.embed_tokens.weight.data
        table[MASK_ID] = mask_embedding(table[:MASK_ID], "mean")
        with appearing_folder(folder) as written:
            model.save_pretrained(written)
    return folder


def judged(options, settings: dict) -> dict:
    """`before` and `variants` that an earlier run under the same options left in `output`."""
    if options.output.is_file():
        earlier = json.loads(options.output.read_text())
        if earlier.get("compared_under") == settings:
            return {name: earlier[name] for name in ("before", "variants")}
    return {"variants": {}}


def print_results(results: dict, console) -> None:
    under = results["compared_under"]
    table = build_table(
        f"From {under['model']}, {under['seconds']:.0f} seconds of {results['clock']} time each, one seed",
        "variant",
        "steps",
        "ms per step",
        "bits per byte",
        "one step: right",
        "blt-s: right",
        "ratio",
        "blt-d: calls per byte",
        "distinct 8-grams",
        caption="right: mean leading correct bytes of drafts of validation text",
    )
    for name, figures in [("before", results["before"]), *results["variants"].items()]:
        one_step, blt_s = figures["one_step"]["mean"], figures["blt_s"]["mean"]
        table.add_row(
            name,
            str(figures.get("steps", "")),
            number(1e3 * seconds, 0) if (seconds := figures.get("seconds_per_step")) else "",
            number(figures["bits_per_byte"], 3),
            number(one_step, 3),
            number(blt_s, 3),
            number(share(one_step, blt_s)),
            number(figures["blt_d_decoder_calls_per_byte"]),
            number(figures["blt_d_distinct_8grams"]),
        )
    console.print(table)


@benchmark(__doc__, "objective", repetitions=1, dtype="bfloat16")
@option("--recipe", type=FILE, default=RECIPE, help="What variants are variants of.")
@option("--data", default="data/demo", help="Folder of prepared data.")
@option("--model", default="checkpoints/fblt-demo", help="Checkpoint to train on from.")
@option("--seconds", type=float, default=150.0, help="Of training for each variant.")
@option("--rate", type=float, default=0.5, help="Share of the recipe's learning rates.")
@option("--forget", type=int, default=200, help="Steps on next bytes alone; 0: as the checkpoint is.")
@option("--variants", type=Listed(click.Choice(list(VARIANTS))), metavar="NAME", default=list(VARIANTS))
@option("--rows", type=FILE, default=Path("runs/benchmarks/objective"), help="Keeps the packed rows.")
@option("--steps", type=POSITIVE, help="So many steps for each, instead of equal time.")
def main(options: SimpleNamespace) -> dict:
    recipe = load_recipe(options.recipe) | {"data": options.data, "output": str(options.rows)}
    recipe["model"] = {name: value for name, value in recipe["model"].items() if name in OBJECTIVE}
    recipe["trainer"]["bf16"] = options.dtype == "bfloat16"
    results, console, clock = start(options), build_console(), CLOCKS[options.clock]

    dataset, _ = load_split(options.data, "validation")
    documents = encode(dataset)
    longest = max(changes.get("model", {}).get("block_size", 8) for changes in VARIANTS.values())
    anchors = draw_anchors(documents, 32 if options.quick else ANCHORS, longest - 1, BYTES_BEFORE, options.seed)
    prompts = draw_prompts(documents, 2 if options.quick else PROMPTS, PROMPT_BYTES, NEW_BYTES, options.seed)
    read = encode(limit(dataset, 2000 if options.quick else MAX_BYTES, options.seed))
    rows = rows_for_model(recipe, load_initial(options.model, {}).model.eval())["train"]

    results["compared_under"] = {name: results["settings"][name] for name in COMPARED_UNDER}
    results |= judged(options, results["compared_under"])
    beginning = options.model
    if options.forget:
        beginning = str(forgetful(options, varied(recipe, NEXT_BYTE, options.rate), rows, clock))
    if "before" not in results:
        results["before"] = judge(load_initial(beginning, {}), read, anchors, prompts, options.seed)
    for name in options.variants:
        if name in results["variants"]:
            continue
        changed = varied(recipe, VARIANTS[name], options.rate)
        seconds, steps = None, options.steps
        if steps is None:
            probe = load_initial(beginning, changed["model"])
            seconds = train(changed, probe, rows, TIMED_STEPS, options.seed, clock).typical()
            steps = max(int(options.seconds / seconds), 1)
        model = load_initial(beginning, changed["model"])
        train(changed, model, rows, steps, options.seed, clock)
        figures = judge(model, read, anchors, prompts, options.seed)
        results["variants"][name] = {"steps": steps, "seconds_per_step": seconds, **figures}
        save(options, results, console)
    print_results(results, console)
    return results


if __name__ == "__main__":
    main()
