"""A run's folder: one process at a time, its newest whole checkpoint, and what killed processes left."""

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

UNFINISHED = "unfinished"  # within a run's output: what is being written, replaced or deleted
LOCK = "lock"
WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # what file systems that have no locks answer
SHARDED_MODEL, SHARDED_OPTIMIZER = "pytorch_model_fsdp_0", "optimizer_0"  # Accelerate's names
WEIGHTS = ("*.safetensors", f"{SHARDED_MODEL}/.metadata", "pytorch_model*.bin")


@contextmanager
def alone_in(output: Path) -> Iterator[None]:
    """Keeps other processes out of a folder that is worked in; ends with the process, however that ends.

    Raises:
        ValueError: another process works there.
    """
    output.mkdir(parents=True, exist_ok=True)
    # A lock that is no more than a file would outlive a killed process, so such a fallback is not taken.
    lock = FileLock(output / LOCK, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"Another process is writing `output` {str(output)!r}: end that one first (a killed launcher may leave "
            "its processes running), or give another `output`."
        ) from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    try:
        yield
    finally:
        if lock.is_locked:
            lock.release()


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: the Trainer writes its state last."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
    except (OSError, ValueError):
        return False
    return any(any(checkpoint.glob(pattern)) for pattern in WEIGHTS)


def newest_checkpoint(output: Path) -> Path | None:
    """The whole checkpoint of a run that has most steps, None if there is none."""
    whole = [Path(folder) for folder in sort_checkpoints(str(output)) if is_whole(Path(folder))]
    return whole[-1] if whole else None


def clean(output: Path) -> None:
    """Deletes what killed processes left in a run's folder: unfinished work, and checkpoints that are not whole."""
    shutil.rmtree(output / UNFINISHED, ignore_errors=True)
    for folder in output.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if folder.is_dir() and not is_whole(folder):
            shutil.rmtree(folder)


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
