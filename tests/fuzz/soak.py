# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""A long text, and many calls: memory and time per byte stay flat, or this says by how much they do not.

    python -m tests.fuzz.soak --bytes 100000 --calls 1000 --decoding blt-s

A tiny random model writes; CPU time is taken, not wall time, so that a busy machine says the same.
"""

import json
import time

import click
import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from modeling_fblt.configuration_fblt import MASK_ID
from tests.modeling.tiny import random_rows, tiny_model

PARTS = 10


def resident() -> int:
    """Bytes of memory that the process holds; 0 where the system does not say so."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS"))
    except OSError:
        return 0


class Clock(StoppingCriteria):
    """Notes CPU time and memory whenever another tenth of the text is there."""

    def __init__(self, columns: int, new: int):
        self.places = [columns + new * part // PARTS for part in range(1, PARTS + 1)]
        self.notes = [(time.process_time(), resident())]

    def __call__(self, input_ids, scores, **kwargs):
        if len(self.notes) <= PARTS and input_ids.shape[1] >= self.places[len(self.notes) - 1]:
            self.notes.append((time.process_time(), resident()))
        return torch.zeros(len(input_ids), dtype=torch.bool)


def long_text(model, new: int, decoding: str) -> list[dict]:
    """CPU milliseconds per byte and megabytes held, for each tenth of one text of `new` bytes."""
    ids = random_rows(1, 16)
    clock = Clock(ids.shape[1], new)
    settings = {"decoding": decoding, "eos_token_id": MASK_ID, "stopping_criteria": StoppingCriteriaList([clock])}
    row = model.generate(ids, max_new_tokens=new, **settings)
    assert row.shape[1] == ids.shape[1] + new
    return [
        {"ms_per_byte": 1000 * (after - before) / (new / PARTS), "megabytes": held / 1e6}
        for (before, _), (after, held) in zip(clock.notes, clock.notes[1:], strict=False)
    ]


def many_calls(model, calls: int, decoding: str) -> list[dict]:
    """The same for each tenth of `calls` calls of 16 bytes."""
    parts = []
    for part in range(PARTS):
        before = time.process_time()
        for call in range(calls // PARTS):
            ids = random_rows(2, 12, seed=part * calls + call)
            model.generate(ids, max_new_tokens=16, decoding=decoding, eos_token_id=MASK_ID)
        seconds = time.process_time() - before
        parts.append({"ms_per_byte": 1000 * seconds / (calls // PARTS * 16), "megabytes": resident() / 1e6})
    return parts


@click.command(help=__doc__)
@click.option("--bytes", "new", default=100_000, show_default=True, help="Of the long text.")
@click.option("--calls", default=1000, show_default=True, help="Of 16 bytes in two rows.")
@click.option("--decoding", default="blt-s", show_default=True)
def main(new: int, calls: int, decoding: str) -> None:
    torch.manual_seed(0)
    model = tiny_model(dtype=torch.float32).requires_grad_(False)
    model.generate(random_rows(1, 16), max_new_tokens=32, decoding=decoding)  # sets things up
    found = {"long text": long_text(model, new, decoding), "calls": many_calls(model, calls, decoding)}
    for name, parts in found.items():
        click.echo(name)
        for part in parts:
            click.echo(f"  {part['ms_per_byte']:.2f} ms/byte  {part['megabytes']:.1f} MB")
    click.echo(json.dumps(found))


if __name__ == "__main__":
    main()
