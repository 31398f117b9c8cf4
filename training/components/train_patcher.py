"""Trains the patcher of a recipe and finds its threshold.

\b
    fblt train-patcher training/recipes/demo.yaml

The patcher is a next-byte transformer: a patch starts after a byte whose next-byte entropy exceeds a threshold. The
threshold that gives the recipe's mean patch length on validation text is found by bisection. It is saved with the
weights: `config.json`, `model.safetensors` and `patching.json` in the patcher's `output`.

The texts are the recipe's `data`, read as `fblt pack` reads them. If that is to become packed rows, which need the
patcher first, give the texts with `--data`.
"""

import json
import math
import shutil
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import TrainingArguments, set_seed

from fblt.batches import weights_digest
from fblt.commands import Command
from fblt.files import publish, recover
from fblt.locks import alone_in
from modeling_fblt import FBLTConfig
from modeling_fblt.chunk_fblt import Chunk
from modeling_fblt.configuration_fblt import FBLTPatcherConfig
from modeling_fblt.networks_fblt import FBLTPatcher, local_context
from modeling_fblt.patching_fblt import (
    PatchingState,
    document_starts,
    entropies_from_logits,
    is_separator,
    patch_starts,
)

from ..packing.patching import THRESHOLD
from ..packing.run_rows import rows_without_starts
from ..packing.sequences import collate
from ..recipe import PATCHER, load_recipe
from ..trainer import RecipeTrainer

RUN = "run"  # the Trainer's folder within the work's


def next_byte_logits(patcher: FBLTPatcher, ids: torch.Tensor, eos_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `[batch, n, vocab - 1]` of whole rows, and where each position's document begins `[batch, n + 1]`."""
    batch, n = ids.shape
    zero = torch.zeros(batch, dtype=torch.long, device=ids.device)
    separator = is_separator(ids, eos_token_id)
    chunk = Chunk(
        ids=ids,
        lengths=zero + n,
        position=zero,
        positions=torch.arange(n, device=ids.device).expand_as(ids),
        separator=separator,
        document_start=document_starts(separator, zero, zero),
    )
    return patcher(ids, chunk.positions, local_context(patcher.config, None, chunk)), chunk.document_start


class PatcherTrainer(RecipeTrainer):
    """Next-byte cross-entropy for a bare patcher."""

    def __init__(self, *args, eos_token_id: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.eos_token_id = eos_token_id

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        ids = inputs["input_ids"]
        logits, _ = next_byte_logits(model, ids, self.eos_token_id)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
        return (loss, {"logits": logits}) if return_outputs else loss


def mean_patch_length(entropies: torch.Tensor, document: torch.Tensor, threshold: float, config: FBLTConfig) -> float:
    """Bytes per patch over packed rows `[rows, n]` at a threshold."""
    state = PatchingState.initial(entropies.shape[0], entropies.device)
    starts = patch_starts(entropies > threshold, state, document, config.max_patch_length, config.isolate_documents)
    return entropies.numel() / starts[:, :-1].sum().item()


def find_threshold(entropies: torch.Tensor, document: torch.Tensor, wanted: float, config: FBLTConfig) -> float:
    """The threshold, in nats, at which patches of `[rows, n]` entropies are `wanted` bytes long on average.

    Raises:
        ValueError: no threshold gives that length, e.g. because `max_patch_length` cuts before it.
    """
    low, high = 0.0, math.log(config.vocab_size)
    longest = mean_patch_length(entropies, document, high, config)
    if not 1.0 <= wanted <= longest:
        raise ValueError(
            f"`mean_patch_length` is {wanted}: the data and `max_patch_length` allow 1 .. {longest:.2f} bytes."
        )
    for _ in range(40):
        middle = (low + high) / 2
        if mean_patch_length(entropies, document, middle, config) < wanted:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@torch.inference_mode()
def row_entropies(
    patcher: FBLTPatcher, rows: np.ndarray, eos_token_id: int
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Entropies `[rows, n]`, document starts `[rows, n + 1]` and bits per byte of packed rows."""
    entropies, documents, bits, count = [], [], 0.0, 0
    for first in range(0, len(rows), 16):
        ids = torch.from_numpy(rows[first : first + 16].astype(np.int64)).to(patcher.device)
        logits, document = next_byte_logits(patcher, ids, eos_token_id)
        entropies.append(entropies_from_logits(logits).cpu())
        documents.append(document.cpu())
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
        bits, count = bits + loss.item() / math.log(2), count + ids[:, 1:].numel()
    return torch.cat(entropies), torch.cat(documents), bits / count


def train_patcher(recipe: dict, name: str) -> dict:
    """Trains the patcher of a recipe read from `name` and saves it with its threshold, both at one moment.

    Until then the work stands in `.NAME-partial` beside the patcher's `output`, and an earlier patcher in `output`.

    Returns:
        What `patching.json` holds: `threshold` in nats, `mean_patch_length` in bytes, `validation_bits_per_byte`, and
        `patcher`, the sha256 of the weights that they hold for.

    Raises:
        ValueError: the recipe has no patcher, `output` is something else, another process is training it, or a loss is
            not finite.
    """
    check_sections(recipe, name)
    output = Path(recipe["patcher"]["output"])
    work = output.with_name(f".{output.name}-partial")
    complete = work / "complete"
    with alone_in(work, output):
        recover(complete, output)
        check_output(output)
        shutil.rmtree(complete, ignore_errors=True)
        patcher, found = train_in(work, recipe)
        patcher.save_pretrained(complete)
        (complete / THRESHOLD).write_text(json.dumps(found, indent=2) + "\n")
        logs = work / RUN / "runs"
        if logs.is_dir():
            logs.rename(complete / "runs")
        publish(complete, output)
        shutil.rmtree(work)
    return found


def train_in(work: Path, recipe: dict) -> tuple[FBLTPatcher, dict]:
    """Trains in a folder of work, which keeps the rows for another attempt; see [`train_patcher`]."""
    settings = recipe["patcher"]
    set_seed(recipe["seed"])
    config = FBLTConfig(**recipe["model"])
    patcher = FBLTPatcher(FBLTPatcherConfig(**recipe["model"]["patcher_config"]))
    rows = rows_without_starts(recipe, work, settings["sequence_length"])
    shutil.rmtree(work / RUN, ignore_errors=True)
    arguments = TrainingArguments(
        output_dir=str(work / RUN),
        report_to=["tensorboard"],
        seed=recipe["seed"],
        remove_unused_columns=False,
        **settings["trainer"],
    )
    trainer = PatcherTrainer(
        model=patcher,
        args=arguments,
        train_dataset=Dataset.from_dict({"input_ids": rows["train"]}).with_format("torch"),
        data_collator=collate,
        recipe_optimizer=settings["optimizer"],
        eos_token_id=config.eos_token_id,
    )
    trainer.train()
    trainer.check_finite()

    patcher.eval()
    entropies, document, bits = row_entropies(patcher, rows["validation"], config.eos_token_id)
    threshold = find_threshold(entropies, document, settings["mean_patch_length"], config)
    return patcher, {
        "threshold": threshold,
        "mean_patch_length": mean_patch_length(entropies, document, threshold, config),
        "validation_bits_per_byte": bits,
        "patcher": f"sha256:{weights_digest(patcher)}",
    }


def check_output(output: Path) -> None:
    """Refuses to replace a folder that is no earlier patcher."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise ValueError(f"`patcher.output` {str(output)!r} is no folder: give one.")
    if output.is_dir() and any(output.iterdir()) and not (output / THRESHOLD).is_file():
        raise ValueError(
            f"`patcher.output` {str(output)!r} holds other files and no patcher, so it is not replaced: give another."
        )


def check_sections(recipe: dict, name: str) -> None:
    """Raises an error if a recipe has no patcher to train, or does not say how."""
    if "patcher" not in recipe or "patcher_config" not in recipe.get("model", {}):
        raise ValueError(
            f"`recipe` {name!r} trains no patcher: it needs sections `patcher` and `model.patcher_config`, "
            "as training/recipes/demo.yaml has them."
        )
    if missing := [key for key in PATCHER if key not in recipe["patcher"]]:
        raise ValueError(f"`recipe` {name!r} lacks {[f'patcher.{key}' for key in missing]}.")


@click.command(cls=Command, help=__doc__)
@click.argument("recipe")
@click.option("--data", help="Texts to train on, or packed rows; instead of the recipe's.")
def main(recipe: str, data: str | None) -> None:
    settings = load_recipe(recipe)
    if data is not None:
        settings["data"] = data
    click.echo(json.dumps(train_patcher(settings, recipe), indent=2))


if __name__ == "__main__":
    main()
