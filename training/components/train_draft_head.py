"""Trains a draft head for saved weights, which all stay as they are: minutes on a CPU.

\b
    fblt train-draft-head checkpoints/fblt-demo --data data/demo --output runs/demo-with-head

A model that has a head already trains that one on. The data is what `fblt train` reads: texts or packed rows;
`--recipe` takes data, row length, limits, damage and seed from a recipe instead. The folder that is written is
complete, with the source's precision, and appears whole or not at all. Before and after, leading correct bytes of
drafts are measured on the data's validation text.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from datasets import Dataset
from transformers import set_seed

from fblt.commands import Command
from fblt.files import appearing_folder
from modeling_fblt import FBLTConfig, FBLTForCausalLM

from ..evaluation.drafts import draft_figures
from ..evaluation.run_metrics import row_anchors
from ..packing.damaged_lines import damaged_rows
from ..packing.run_rows import rows_without_starts
from ..recipe import load_recipe
from ..running.draft_head import block_states, train_head

ROW_LENGTH = 512


def load_float32(source: str) -> tuple[FBLTForCausalLM, torch.dtype]:
    """A saved model in float32, and the dtype that it was saved in.

    Raises:
        ValueError: there is no model, or it has no blocks.
    """
    if not (Path(source) / "config.json").is_file():
        raise ValueError(f"`model` {source!r} holds no config.json: give the folder of a saved FBLT.")
    config = FBLTConfig.from_pretrained(source)
    if config.block_size is None:
        raise ValueError(
            f"`model` {source!r} was not trained with blocks (its `block_size` is None), which a draft head fills in: "
            "fine-tune it with the block loss first."
        )
    model = FBLTForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    return model, config.dtype or torch.float32


def data_rows(settings: dict, most_lines: int) -> dict[str, np.ndarray]:
    """Both splits' ids as rows `[rows, length]`; `settings` as in a recipe. Texts are packed into a scratch folder.

    With `damage`, up to `most_lines` lines are damaged, and stand after their damaged forms.
    """
    if "damage" in settings:
        return damaged_rows(settings, most_lines)
    with TemporaryDirectory() as scratch:
        return rows_without_starts(settings, Path(scratch), settings["sequence_length"])


def leading_bytes(model: FBLTForCausalLM, rows: np.ndarray, count: int, seed: int) -> dict[str, dict[str, float]]:
    """Leading correct bytes of each kind of draft at `count` anchors: mean and standard error."""
    ids = Dataset.from_dict({"input_ids": rows})
    anchors = row_anchors(ids, count, model.config.block_size - 1, seed)
    if not anchors:
        raise ValueError("`data` has no validation document that is long enough to draft in.")
    found = draft_figures(model, anchors, batch_size=32, seed=seed)
    names = [name for name, figures in found.items() if isinstance(figures, dict) and "leading_correct" in figures]
    figures = {name: found[name]["leading_correct"] for name in names}
    return {n: {key: f[key] for key in ("mean", "standard_error")} for n, f in figures.items()}


def round_to(model: FBLTForCausalLM, dtype: torch.dtype) -> None:
    """Rounds the head's weights to what `dtype` can hold, so that what is measured is what is saved."""
    for weight in model.draft_head.parameters():
        weight.data = weight.data.to(dtype).to(weight.dtype)


def save(model: FBLTForCausalLM, dtype: torch.dtype, output: Path) -> None:
    """Writes a complete folder in `dtype`, the patcher in float32 as always."""
    patcher = set() if model.model.patcher is None else set(map(id, model.model.patcher.parameters()))
    for weight in model.parameters():
        if id(weight) not in patcher:
            weight.data = weight.data.to(dtype)
    with appearing_folder(output) as complete:
        model.save_pretrained(complete)


def train_draft_head(
    source: str,
    settings: dict,
    output: Path,
    steps: int,
    blocks: int,
    anchors: int,
    fields: dict | None = None,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
) -> dict:
    """Trains and saves; see the command.

    Args:
        settings: `data`, `sequence_length`, `seed` and perhaps `max_bytes`, as in a recipe.
        fields: of a fresh head's [`FBLTDraftHeadConfig`].

    Returns:
        Leading correct bytes `before` and `after`, and the mean loss of the first and the last tenth of the steps.
    """
    model, dtype = load_float32(source)
    set_seed(settings["seed"])
    if model.draft_head is None:
        model.add_draft_head(**(fields or {}))
    elif fields:
        raise ValueError(f"`model` {source!r} has a draft head already: leave out {sorted(fields)}.")
    rows = data_rows(settings, most_lines=blocks)
    before = leading_bytes(model, rows["validation"], anchors, settings["seed"])
    states = block_states(model, rows["train"], blocks, settings["seed"])
    history = train_head(model, states, steps, batch_size, learning_rate, settings["seed"])
    round_to(model, dtype)
    after = leading_bytes(model, rows["validation"], anchors, settings["seed"])
    save(model, dtype, output)
    tenth = max(steps // 10, 1)
    return {
        "before": before,
        "after": after,
        "blocks": len(states),
        "loss": {"first": float(np.mean(history[:tenth])), "last": float(np.mean(history[-tenth:]))},
    }


@click.command(cls=Command, help=__doc__)
@click.argument("model")
@click.option("--data", help="Texts, or packed rows; instead of the recipe's.")
@click.option("--recipe", help="YAML recipe to take data, row length, limits, damage and seed from.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--steps", type=click.IntRange(1), default=4000, show_default=True)
@click.option("--blocks", type=click.IntRange(1), default=60_000, show_default=True, help="Blocks kept in memory.")
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True, help="Blocks per step.")
@click.option("--learning-rate", type=float, default=3e-3, show_default=True)
@click.option("--hidden-size", type=click.IntRange(1), help="Of a fresh head; 128 when left out.")
@click.option("--distillation", type=float, help="Of a fresh head: share of soft targets; 1 when left out.")
@click.option("--anchors", type=click.IntRange(1), default=512, show_default=True, help="Anchors to measure drafts at.")
@click.option("--row-length", type=click.IntRange(2), help=f"Bytes per row; the recipe's, or {ROW_LENGTH}.")
@click.option("--seed", type=click.IntRange(0), help="The recipe's, or 0, when left out.")
def main(
    model: str,
    data: str | None,
    recipe: str | None,
    output: Path,
    hidden_size: int | None,
    distillation: float | None,
    row_length: int | None,
    seed: int | None,
    **options,
) -> None:
    if (data, recipe) == (None, None):
        raise ValueError("Give `--data` or `--recipe`: what to train on.")
    if output.exists() and not (output / "config.json").is_file():
        raise ValueError(f"`--output` {str(output)!r} holds something else than a model, so it stays: give another.")
    settings = {"sequence_length": ROW_LENGTH, "seed": 0} | ({} if recipe is None else load_recipe(recipe))
    given = {"data": data, "sequence_length": row_length, "seed": seed}
    settings |= {name: value for name, value in given.items() if value is not None}
    fields = {"hidden_size": hidden_size, "distillation": distillation}
    fields = {name: value for name, value in fields.items() if value is not None}
    report = train_draft_head(model, settings, output, fields=fields, **options)
    click.echo(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
