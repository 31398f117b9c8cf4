"""A run's folder: its newest whole checkpoint, those that are to go, and what killed processes left."""

import json
import logging
import shutil
from pathlib import Path

from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_utils import sort_checkpoints

from fblt.checksums import check_folder

logger = logging.getLogger(__name__)

UNFINISHED = "unfinished"  # within a run's output: what is being written, replaced or deleted
DAMAGED = "damaged"  # and checkpoints that were whole once
SHARDED_MODEL, SHARDED_OPTIMIZER = "pytorch_model_fsdp_0", "optimizer_0"  # Accelerate's names
DESCRIPTION = ".metadata"  # in each, torch's name
# What a run needs to go on exactly, each as any of several files, since earlier versions kept no checksums.
NEEDED = {
    "weights": ("*.safetensors", f"{SHARDED_MODEL}/{DESCRIPTION}", "pytorch_model*.bin"),
    "optimizer": (OPTIMIZER_NAME, f"{SHARDED_OPTIMIZER}/{DESCRIPTION}"),
    "learning-rate schedule": (SCHEDULER_NAME,),
    "random numbers": ("rng_state*.pth",),
}


def check_whole(checkpoint: Path) -> None:
    """Checks that a checkpoint holds all that a run needs to go on exactly, as it was written.

    Raises:
        ValueError: something is missing or damaged; the message names it.
    """
    state = checkpoint / TRAINER_STATE_NAME
    try:
        whole = isinstance(json.loads(state.read_text(encoding="utf-8")).get("global_step"), int)
    except (OSError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise ValueError(f"{state}: is missing or damaged")
    for what, patterns in NEEDED.items():
        if not any(any(checkpoint.glob(pattern)) for pattern in patterns):
            raise ValueError(f"{checkpoint}: holds no {what} ({patterns[0]})")
    check_folder(checkpoint)


def newest_checkpoint(output: Path) -> Path | None:
    """The checkpoint of a run that has most steps, None if there is none."""
    found = sort_checkpoints(str(output))
    return Path(found[-1]) if found else None


def clean(output: Path) -> None:
    """Deletes what killed processes left in a run's folder: unfinished work."""
    shutil.rmtree(output / UNFINISHED, ignore_errors=True)


def set_damaged_aside(output: Path) -> None:
    """Moves checkpoints that are newer than the newest whole one into `<output>/damaged`, and says so.

    A kill leaves no such checkpoints: what is there was spoiled later, so nothing is deleted.

    Raises:
        ValueError: there are checkpoints, but none is whole.
    """
    damaged = []
    for folder in map(Path, reversed(sort_checkpoints(str(output)))):
        try:
            check_whole(folder)
        except ValueError as error:
            damaged.append((folder, error))
        else:
            break
    else:
        if damaged:
            raise ValueError(
                f"`output` {str(output)!r} has checkpoints, but none is whole: {damaged[0][1]}. Put the missing files "
                "back, or give another `output` to begin anew."
            )
    for checkpoint, error in damaged:
        aside = output / DAMAGED / checkpoint.name
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        checkpoint.rename(aside)
        logger.warning("%s. The run goes on from %s; what is damaged is kept in %s.", error, folder, aside)


def rotate(output: Path, limit: int | None, best: str | None) -> None:
    """Deletes the oldest checkpoints beyond `limit` (None or 0: none), never the newest nor `best`.

    Each is moved aside first, so that a kill leaves no half-deleted checkpoint under its name.
    """
    checkpoints = [Path(folder) for folder in sort_checkpoints(str(output))]
    kept = {checkpoints[-1], Path(best) if best else checkpoints[-1]} if checkpoints else set()
    surplus = len(checkpoints) - max(limit, len(kept)) if limit else 0
    for folder in [folder for folder in checkpoints if folder not in kept][: max(surplus, 0)]:
        aside = output / UNFINISHED / f"{folder.name}-old"
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
