"""The family of models behind the trade-off: recipes, decodings, held-out lines, and what a run consists of."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from datasets import DatasetDict, load_from_disk
from fblt.training.packing.damaged_lines import held_out_examples, load_lines
from fblt.training.recipe import OBJECTIVE, load_recipe

from fblt.files import appearing_folder
from modeling_fblt import FBLTConfig

from .harness import REPOSITORY

RECIPES = REPOSITORY / "training/recipes"
TASKS = {"restore": "words right", "translate": "BLEU"}  # and the score of each
BASE, BLT = "base", "blt"
HEAD_LINES = 20_000  # that a draft head for restoration trains on
# Sizes at which all of it runs in a minute or two: it shows that it runs.
TINY_NETWORK = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
QUICK = {"base_steps": 3, "adapt_steps": 2, "head_steps": 2, "lines": 3, "block_sizes": [4, 8], "batch_size": 4}
QUICK_BYTES = 60  # of the longest line


def model_names(block_sizes: Sequence[int]) -> list[str]:
    """All models of the family in the order they are made in."""
    return [BASE, BLT, *(f"blt-d-{size}" for size in block_sizes)]


def block_size_of(name: str) -> int | None:
    """The block size of a model that drafts blocks."""
    return int(name.removeprefix("blt-d-")) if name.startswith("blt-d-") else None


def task_recipe(task: str, options: SimpleNamespace) -> dict:
    """The recipe of a task, from random weights if no base is given, with data and geometry as the options have
    them."""
    recipe = load_recipe(RECIPES / f"{task}.yaml")
    second = recipe.pop("init_from", None) is not None  # it leaves the geometry to a first recipe
    if second and base_given(task, options) is None:
        recipe["model"] = load_recipe(RECIPES / f"{task}-start.yaml")["model"] | recipe["model"]
    recipe["data"] = str(getattr(options, f"{task}_data"))
    recipe["seed"] = options.seed
    # Figures of validation text during training are none of this benchmark's.
    recipe["trainer"] |= {"eval_strategy": "no", "report_to": [], "disable_tqdm": False}
    if base_given(task, options) is not None:  # geometry, patches and block size are those of the base
        kept = set(OBJECTIVE) - {"block_size"}
        recipe["model"] = {name: value for name, value in recipe["model"].items() if name in kept}
    elif options.quick:
        for part in ("encoder_config", "global_config", "decoder_config"):
            recipe["model"][part] |= TINY_NETWORK
        recipe["model"]["encoder_config"]["hash_vocab_size"] = 101
    if options.quick:
        recipe["trainer"] |= {"per_device_train_batch_size": 2, "warmup_steps": 1}
    return recipe


def base_given(task: str, options: SimpleNamespace) -> Path | None:
    """The folder of a trained BLT that the others of a task start from, if one was given."""
    return getattr(options, f"{task}_base")


def check_base(task: str, options: SimpleNamespace) -> None:
    """Raises a `ValueError` if the base that was given is no folder of weights, has no blocks, or has a draft head."""
    if (folder := base_given(task, options)) is None:
        return
    argument = f"`--{task}-base` {str(folder)!r}"
    if not (folder / "config.json").is_file():
        raise ValueError(f"{argument} holds no model: give a folder that `fblt train` wrote, such as runs/NAME/final.")
    config = FBLTConfig.from_pretrained(folder)
    if config.block_size is None:
        raise ValueError(f"{argument} has no `<mask>`: train it with a `block_size` and `diffusion_loss_weight: 0`.")
    if config.draft_head_config is not None:
        raise ValueError(f"{argument} has a draft head, which is of its block size: give the weights without it.")


def run_recipe(task: str, name: str, options: SimpleNamespace) -> dict:
    """The recipe that makes one model: the base from random weights, all others from the base, at equal steps."""
    recipe = copy.deepcopy(task_recipe(task, options))
    steps = options.base_steps if name == BASE else options.adapt_steps
    size = block_size_of(name)
    if size is None:
        recipe["model"]["diffusion_loss_weight"] = 0.0  # next bytes alone: a BLT, whose blocks are never trained
    else:
        recipe["model"]["block_size"] = size
    recipe["output"] = str(folder_of(task, name, options))
    trainer = recipe["trainer"]
    trainer |= {"max_steps": steps, "save_steps": max(min(trainer["save_steps"], steps // 4), 1)}
    trainer["warmup_steps"] = min(trainer["warmup_steps"], steps // 4)
    if "lr_scheduler_kwargs" in trainer:
        trainer["lr_scheduler_kwargs"] = {**trainer["lr_scheduler_kwargs"], "num_decay_steps": max(steps // 3, 1)}
    if name != BASE:
        recipe["init_from"] = str(final_of(task, BASE, options))
        for rate in ("learning_rate", "muon_learning_rate"):
            recipe["optimizer"][rate] *= options.rate
    return recipe


def folder_of(task: str, name: str, options: SimpleNamespace) -> Path:
    return options.work / task / name


def final_of(task: str, name: str, options: SimpleNamespace) -> Path:
    """Where a model's weights end up; those that draft blocks have a draft head beside them."""
    return folder_of(task, name, options) / ("final" if block_size_of(name) is None else "with-head")


@dataclass(frozen=True)
class HeldOut:
    """Prompts without their newline and what should follow them, short ones first."""

    prompts: list[str]
    wanted: list[str]

    def batches(self, size: int) -> list["HeldOut"]:
        return [
            HeldOut(self.prompts[first : first + size], self.wanted[first : first + size])
            for first in range(0, len(self.prompts), size)
        ]


def held_out(task: str, options: SimpleNamespace) -> HeldOut:
    """The first lines of each language of the split `test`: damaged in the recipe's shares, or to translate."""
    recipe = task_recipe(task, options)
    if task == "restore":
        rows = load_lines(recipe["data"], "test")
        examples = held_out_examples(rows["text"], recipe["damage"], options.seed)
    else:
        rows = examples = load_pairs(recipe["data"])["test"]
    kept: dict[str, list[tuple[str, str]]] = {}
    for language, prompt, wanted in zip(rows["language"], examples["prompt"], examples["completion"], strict=True):
        own = kept.setdefault(language, [])
        if len(own) < options.lines and not (options.quick and len(prompt.encode()) > QUICK_BYTES):
            own.append((prompt.removesuffix("\n"), wanted))
    pairs = sorted((pair for own in kept.values() for pair in own), key=lambda pair: len(pair[0].encode()))
    if not pairs:
        raise ValueError(f"`--{task}-data` {recipe['data']!r} has no lines in its split 'test': prepare it anew.")
    return HeldOut([prompt for prompt, _ in pairs], [wanted for _, wanted in pairs])


def load_pairs(data: str) -> DatasetDict:
    """A folder of pairs; its `test` is held out.

    Raises:
        ValueError: there is none.
    """
    if not (Path(data) / "dataset_dict.json").is_file():
        raise ValueError(
            f"`--translate-data` {data!r} holds no pairs: make them with `fblt prepare translate --output {data}`."
        )
    return load_from_disk(data)


def head_data(task: str, options: SimpleNamespace) -> str:
    """Prompts and completions that draft heads train on: those of the task; of lines to restore, damaged ones."""
    recipe = task_recipe(task, options)
    if task != "restore":
        return recipe["data"]
    folder = options.work / task / "head-data"
    if not folder.is_dir():
        with appearing_folder(folder) as written:
            splits = {split: load_lines(recipe["data"], split)["text"] for split in ("train", "validation")}
            DatasetDict(
                {
                    split: held_out_examples(lines[:HEAD_LINES], recipe["damage"], options.seed)
                    for split, lines in splits.items()
                }
            ).save_to_disk(str(written))
    return str(folder)


def decodings(block_size: int | None, quick: bool) -> dict[str, dict]:
    """What a model is measured in, by name; settings of `generate`."""
    found: dict[str, dict] = {"ar": {"decoding": "ar"}}
    for length in (4,) if quick else (4, 8, 16):
        found[f"blt-s {length}"] = {"decoding": "blt-s", "draft_length": length}
    if block_size is None:
        return found
    plain = {"decoding": "blt-d", "block_size": block_size, "draft_head": False}
    verified = {"decoding": "blt-dv", "block_size": block_size, "draft_head": False}
    found["blt-d one step"] = {**plain, "unmasking": "one_step"}
    for threshold in (0.7,) if quick else (0.5, 0.7, 0.9, 0.95):
        found[f"blt-d confidence {threshold}"] = {
            **plain,
            "unmasking": "confidence",
            "confidence_threshold": threshold,
        }
    for bound in (0.8,) if quick else (0.4, 0.8, 1.0):
        found[f"blt-d entropy {bound}"] = {**plain, "unmasking": "entropy", "entropy_bound": bound}
    for threshold in (0.7,) if quick else (0.5, 0.7, 0.9):
        found[f"blt-d head sequential {threshold}"] = {
            **plain,
            "draft_head": True,
            "unmasking": "sequential",
            "confidence_threshold": threshold,
        }
    found["blt-dv one step"] = {**verified, "unmasking": "one_step"}
    if not quick:
        found["blt-dv confidence 0.3"] = {**verified, "unmasking": "confidence", "confidence_threshold": 0.3}
        found["blt-dv entropy 1.5"] = {**verified, "unmasking": "entropy", "entropy_bound": 1.5}
    found["blt-dv head"] = {**verified, "draft_head": True, "unmasking": "one_step"}
    for passes in (1,) if quick else (1, 2):
        for name in ("blt-dv one step", "blt-dv head"):
            found[f"{name} refined {passes}"] = {**found[name], "refine_steps": passes}
    return found


@dataclass(frozen=True)
class Part:
    """A piece of work that is done or not.

    Attributes:
        kind: parts of a kind cost alike by their units.
        units: how much it is: steps, weighed by what a block of that size costs, or lines times decodings.
        mark: the file that is there once it is done.
    """

    kind: str
    task: str
    model: str
    units: float
    mark: Path
    batch: int = 0


def parts(task: str, held: HeldOut, options: SimpleNamespace) -> list[Part]:
    """All work on a task, in order."""
    found = []
    for name in model_names(options.block_sizes):
        size, folder = block_size_of(name), folder_of(task, name, options)
        steps = options.base_steps if name == BASE else options.adapt_steps
        found.append(Part("steps", task, name, steps * (1 + (size or 0) / 16), folder / "final" / "config.json"))
        if size is not None:
            found.append(Part("head", task, name, options.head_steps, folder / "with-head" / "config.json"))
        many = len(decodings(size, options.quick))
        for index, batch in enumerate(held.batches(options.batch_size)):
            units = many * sum(len(line.encode()) for line in batch.wanted)
            found.append(Part("bytes", task, name, units, folder / "measured" / f"{index:04}.json", index))
    return found


class Times:
    """Seconds that parts of each kind took, kept in a file, and what is left by them."""

    # Before anything was measured: seconds of one core per step of 16 lines, per step of a head, and per byte and
    # decoding in batches of 16. Guesses, not measurements.
    FIRST: Mapping[str, float] = {"steps": 0.8, "head": 0.15, "bytes": 0.004}

    def __init__(self, file: Path):
        self.file = file
        self.taken = json.loads(file.read_text()) if file.is_file() else {}

    def add(self, part: Part, seconds: float) -> dict:
        old = self.taken.get(part.kind, {"seconds": 0.0, "units": 0.0})
        self.taken[part.kind] = {"seconds": old["seconds"] + seconds, "units": old["units"] + part.units}
        return self.taken

    def left(self, open_parts: Sequence[Part]) -> float:
        """Seconds that these parts should take."""
        rates = {kind: found["seconds"] / found["units"] for kind, found in self.taken.items() if found["units"]}
        return float(np.sum([part.units * rates.get(part.kind, self.FIRST[part.kind]) for part in open_parts]))
