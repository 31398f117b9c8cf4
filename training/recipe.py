"""Recipes: one YAML file says everything about a training run, and is checked before any work."""

import inspect
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from modeling_fblt import FBLTConfig

from .data.restore.damage import check_shares
from .running.compiled import check_backend
from .running.optimizers import build_optimizer

EXAMPLE = "see training/recipes/demo.yaml for all sections"
REQUIRED = ("seed", "data", "output", "sequence_length", "optimizer", "trainer")
FRESH = ("model", "patcher")  # required unless `init_from` names weights to start from; no patcher, no `patcher`
OPTIONAL = (
    "max_bytes",
    "hold_out",
    "attn_implementation",
    "init_from",
    "evaluation_drafts",
    "damage",
    "longest_line",
    "stream",
    "stream_parts",
    "compile_layers",
)
PATCHER = ("output", "sequence_length", "mean_patch_length", "optimizer", "trainer")
# What a run may change about saved weights: how they are trained, not what they are.
OBJECTIVE = (
    "block_size",
    "diffusion_loss_weight",
    "diffusion_t_min",
    "corruption",
    "draft_fraction",
    "block_fraction",
    "random_anchor_fraction",
    "distillation",
    "draft_head_loss_weight",
)
# The paper's objective, whatever its blocks' size: what the config has by default.
PAPER = {name: getattr(FBLTConfig(), name) for name in OBJECTIVE if name != "block_size"}
GIVEN_BY_RECIPE = {
    "output_dir": "output",
    "seed": "seed",
    "prediction_loss_only": None,
    "resume_from_checkpoint": None,
    "save_only_model": None,  # nothing could go on from such checkpoints
}


def load_recipe(path: str | Path) -> dict:
    """Reads and checks a recipe.

    Raises:
        FileNotFoundError: no such file.
        ValueError: sections missing, or keys that nothing reads; the message names them.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"`recipe` {str(path)!r} does not exist: give a YAML file such as training/recipes/demo.yaml."
        )
    recipe = yaml.safe_load(path.read_text())
    check_recipe(recipe, str(path))
    return recipe


def check_recipe(recipe: Any, name: str) -> None:
    """Checks the sections and keys of a recipe read from `name`; see [`load_recipe`]."""
    if not isinstance(recipe, dict):
        raise ValueError(f"`recipe` {name!r} holds no mapping of sections: {EXAMPLE}.")
    required = REQUIRED if "init_from" in recipe else REQUIRED + FRESH
    if (recipe.get("model") or {}).get("patching_mode", "entropy") != "entropy":
        required = tuple(key for key in required if key != "patcher")
    missing = [key for key in required if key not in recipe]
    if missing:
        raise ValueError(f"`recipe` {name!r} lacks {missing}: {EXAMPLE}.")
    _refuse_unknown(recipe, (*REQUIRED, *FRESH, *OPTIONAL), name, "")
    for section in ("optimizer", "trainer", *(key for key in FRESH if key in recipe)):
        if not isinstance(recipe[section], dict):
            raise ValueError(
                f"`recipe` {name!r}: section {section!r} is {recipe[section]!r}, not a mapping: {EXAMPLE}."
            )
    _check_run(recipe, name, "")
    if "damage" in recipe:
        check_shares(recipe["damage"], "damage")
    if "longest_line" in recipe:
        _check_longest_line(recipe, name)
    _check_stream(recipe, name)
    if "compile_layers" in recipe:
        check_backend(recipe["compile_layers"])
    if "patcher" in recipe:
        _refuse_unknown(recipe["patcher"], PATCHER, name, "patcher.")
        _check_run(recipe["patcher"], name, "patcher.")
    if "model" in recipe:
        _check_model(recipe["model"], name)


def _check_longest_line(recipe: dict, name: str) -> None:
    longest = recipe["longest_line"]
    if "damage" not in recipe:
        raise ValueError(f"`recipe` {name!r}: `longest_line` goes with `damage` alone: leave it out.")
    if isinstance(longest, bool) or not isinstance(longest, int) or longest < 1:
        raise ValueError(f"`recipe` {name!r}: `longest_line` is {longest!r}: give a number of bytes, 1 or more.")


def _check_stream(recipe: dict, name: str) -> None:
    if "stream" not in recipe:
        if "stream_parts" in recipe:
            raise ValueError(f"`recipe` {name!r}: `stream_parts` goes with `stream` alone: leave it out.")
        return
    if "damage" in recipe:
        raise ValueError(f"`recipe` {name!r}: `stream` and `damage` do not go together: leave one out.")
    if not isinstance(recipe["stream"], str):
        raise ValueError(f"`recipe` {name!r}: `stream` is {recipe['stream']!r}: give a folder, a file or a glob.")
    parts = recipe.get("stream_parts", 1)
    if isinstance(parts, bool) or not isinstance(parts, int) or parts < 1:
        raise ValueError(f"`recipe` {name!r}: `stream_parts` is {parts!r}: give a number of parts, 1 or more.")
    steps = recipe["trainer"].get("max_steps", -1)
    if not steps or steps < 0:
        raise ValueError(f"`recipe` {name!r}: `stream` has no end: give `trainer.max_steps`.")


def _check_run(section: dict, name: str, prefix: str) -> None:
    """Checks an optimizer and a trainer section against what takes them."""
    settings = tuple(inspect.signature(build_optimizer).parameters)[1:]
    _refuse_unknown(section.get("optimizer", {}), settings, name, f"{prefix}optimizer.")
    trainer = section.get("trainer", {})
    for key, place in GIVEN_BY_RECIPE.items():
        if key in trainer:
            remedy = f"give the recipe's `{place}` instead" if place else "it is set by the run"
            raise ValueError(f"`recipe` {name!r}: `{prefix}trainer.{key}` cannot be set: {remedy}.")
    _refuse_unknown(trainer, [f.name for f in fields(TrainingArguments) if f.init], name, f"{prefix}trainer.")


def _check_model(model: dict, name: str) -> None:
    if "patching_threshold" in model:
        raise ValueError(
            f"`recipe` {name!r}: `model.patching_threshold` cannot be set: give `patcher.mean_patch_length`, for which "
            "`fblt train-patcher` finds the threshold."
        )
    _refuse_unknown(model, _config_fields(FBLTConfig), name, "model.")
    for part, config in FBLTConfig.sub_configs.items():
        if model.get(part) is not None:
            _refuse_unknown(model[part], _config_fields(config), name, f"model.{part}.")


def _config_fields(config: type) -> set[str]:
    """Fields that a config class declares itself or takes from this package's classes, not from transformers' base."""
    own = set().union(
        *(inspect.get_annotations(parent) for parent in config.__mro__ if parent.__module__ == FBLTConfig.__module__)
    )
    return own & {field.name for field in fields(config)}


def _refuse_unknown(section: dict, known: Iterable[str], name: str, prefix: str) -> None:
    unknown = sorted(set(section) - set(known))
    if unknown:
        raise ValueError(
            f"`recipe` {name!r} has unknown keys {[prefix + key for key in unknown]}: known here are {sorted(known)}."
        )
