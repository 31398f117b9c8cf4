"""How far a checkpoint was trained: read from a Trainer checkpoint, kept beside exported weights."""

import json
from pathlib import Path

PROGRESS_FILE = "training_progress.json"  # in exported folders
TRAINER_STATE = "trainer_state.json"  # in the Trainer's checkpoints


def progress_of(folder: str | Path) -> dict | None:
    """`steps`, and `hours` of training where the run's logs tell; None for a folder that does not say.

    Works on exported folders and on the Trainer's checkpoints, `<run>/checkpoint-<steps>`.
    """
    folder = Path(folder)
    if (folder / PROGRESS_FILE).is_file():
        return json.loads((folder / PROGRESS_FILE).read_text())
    if not (folder / TRAINER_STATE).is_file():
        return None
    steps = json.loads((folder / TRAINER_STATE).read_text())["global_step"]
    return {"steps": steps, "hours": training_hours(folder.resolve().parent, steps)}


def training_hours(run: Path, steps: int) -> float | None:
    """Wall-clock hours that a run took to reach `steps`, pauses between its sessions left out.

    Every session of a run writes its own TensorBoard file; its time is that from its first event to its last one up to
    `steps`. Work lost to an interruption is counted: it was spent.
    """
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    seconds, found = 0.0, False
    for path in sorted(run.glob("runs/**/events.out.tfevents.*")):
        events = [(event.wall_time, event.step) for event in EventFileLoader(str(path)).Load()]
        times = [time for time, step in events if step <= steps]
        if times:
            found = True
            seconds += max(times) - min(time for time, _ in events)
    return seconds / 3600 if found else None
