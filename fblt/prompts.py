"""Writing on from many prompts: a file of them in, a line of JSON for each out."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from .batches import Journal, bytes_of, run_batches, stop_ids, write


def read_prompts(file: Path) -> list[dict]:
    """The prompts of a file: the key `prompt` of each line of a `.jsonl`, whose other keys are kept; else each line.

    Raises:
        ValueError: a line of a `.jsonl` is no object with a text `prompt`, another line no UTF-8, or there is no line.
    """
    lines = file.read_bytes().removesuffix(b"\n").split(b"\n")
    if lines == [b""]:
        raise ValueError(f"--prompts {file}: is empty; give a prompt on each line")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line) if file.suffix == ".jsonl" else {"prompt": line.decode().removesuffix("\r")}
        except ValueError as error:
            raise ValueError(f"--prompts {file}: line {number} cannot be read: {error}") from error
        if not isinstance(entry, dict) or not isinstance(entry.get("prompt"), str):
            raise ValueError(f'--prompts {file}: line {number} has no text under "prompt"')
        found.append(entry)
    return found


def continue_prompts(
    model,
    prompts: Sequence[str],
    rows: int,
    settings: Mapping,
    seed: int | None = None,
    journal: Journal | None = None,
    label: str | None = None,
) -> list[dict]:
    """What a model writes after each prompt: `completion`, bytes that are no UTF-8 as U+FFFD, and `finish_reason`:
    `stop`, or `length` where it was cut.

    Args:
        rows: of a batch.
        settings: of `generate`.
        seed: of drawn bytes. Each batch has its own seed by it, so that a run that goes on draws what it would have.
        journal, label: see [`run_batches`].
    """
    data, stops = [prompt.encode() for prompt in prompts], stop_ids(model)

    def compute(number: int, batch: list[int]) -> list[dict]:
        if seed is not None:
            torch.manual_seed(seed * 1_000_003 + number)
        written, _ = write(model, [data[index] for index in batch], **settings)
        return [
            {
                "completion": bytes_of(ids).decode("utf-8", "replace"),
                "finish_reason": "stop" if ids and ids[-1] in stops else "length",
            }
            for ids in written
        ]

    return run_batches(data, rows, compute, journal, label)
