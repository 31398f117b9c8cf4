# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Whether memory stays flat while text is streamed that no memory would hold.

    python -m benchmarks.streaming --gigabytes 50 --shards 16 --shard-megabytes 64
    python -m benchmarks.streaming --gigabytes 0 --minutes 10

First rows alone are read and packed, as training takes them, until so many GB of text have gone by; the generated files
are read again and again, as a stream is. Then a tiny model trains on the same stream, patches found in each step. What
is noted is the resident memory of this process, where no workers read.
"""

import json
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import psutil
import torch
from fblt.training.data.inputs import data_source, open_source
from fblt.training.packing.streamed import StreamedRows, StreamLoader
from fblt.training.recipe import check_recipe
from fblt.training.run import build_trainer
from rich.console import Console
from transformers import TrainerCallback

from fblt.commands import Command
from modeling_fblt import FBLTForCausalLM

from .harness import FILE, POSITIVE, build_console, build_table, describe_machine, help_of, number, option, save
from .random_models import geometry_tiny

PARTS, BATCH, TRAINED_LENGTH = 4, 32, 512
NOTES = 50  # of memory, while reading
ENOUGH = 1e8  # bytes, below which growth a GB would be noise, made large


def write_shards(folder: Path, shards: int, megabytes: int, seed: int) -> int:
    """JSONL files of documents of random words, 100 bytes to 20 kB each; returns the bytes of all texts."""
    chance, total = random.Random(seed), 0
    words = ["".join(chance.choices("etaoinshrdlué", k=chance.randrange(1, 12))) for _ in range(5000)]
    folder.mkdir()
    for shard in range(shards):
        with open(folder / f"{shard:03}.jsonl", "w") as file:
            written = 0
            while written < megabytes * 1_000_000:
                text = " ".join(chance.choices(words, k=chance.randrange(16, 3000)))
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                written += len(text.encode())
        total += written
    return total


def memory() -> float:
    """MB that this process holds."""
    return psutil.Process().memory_info().rss / 1e6


def read(folder: Path, gigabytes: float, length: int, seed: int) -> Iterator[dict]:
    """Reads so much text; notes bytes, memory and processor seconds, about fifty times."""
    with tempfile.TemporaryDirectory() as scratch:
        source = data_source(folder / "*.jsonl", "stream")
        stream = open_source(source, {"text": "text"}, ["train"], Path(scratch), streaming=True).splits["train"]
    batches = iter(StreamLoader(StreamedRows(stream, length, PARTS, seed=seed), BATCH))
    done, began = 0, time.process_time()
    step = max(1, int(gigabytes * 1e9 / NOTES))
    while done < gigabytes * 1e9:
        due = done + step
        while done < due:
            done += next(batches)["input_ids"].numel()
        yield {"bytes": done, "memory_mb": memory(), "processor_seconds": time.process_time() - began}


class Notes(TrainerCallback):
    """Notes the memory every tenth step, and ends a run after so many minutes."""

    def __init__(self, minutes: float, row_bytes: int):
        self.ends, self.row_bytes = time.monotonic() + 60 * minutes, row_bytes
        self.found: list[dict] = []

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % 10 == 0:
            self.found.append({"bytes": state.global_step * self.row_bytes, "memory_mb": memory()})
        control.should_training_stop = time.monotonic() > self.ends


def train(folder: Path, scratch: Path, minutes: float, seed: int) -> list[dict]:
    """Trains a tiny model on the stream through `fblt train`'s own code."""
    torch.manual_seed(seed)
    FBLTForCausalLM(geometry_tiny(block_size=8)).save_pretrained(scratch / "weights")
    (scratch / "held-out.jsonl").write_text(
        json.dumps({"text": "bytes " * 500}) + "\n" + json.dumps({"text": "a" * 3000})
    )
    recipe = {
        "seed": seed,
        "init_from": str(scratch / "weights"),
        "data": str(scratch / "held-out.jsonl"),
        "hold_out": 0.5,
        "stream": f"{folder}/*.jsonl",
        "stream_parts": PARTS,
        "output": str(scratch / "run"),
        "sequence_length": TRAINED_LENGTH,
        "optimizer": {"name": "adamw", "learning_rate": 1e-3},
        "trainer": {
            "per_device_train_batch_size": PARTS,
            "max_steps": 1_000_000,
            "save_steps": 500,
            "save_total_limit": 1,
            "logging_steps": 100,
            "use_cpu": True,
            "disable_tqdm": True,
            "report_to": [],
        },
    }
    check_recipe(recipe, "streaming")
    trainer = build_trainer(recipe)
    notes = Notes(minutes, PARTS * TRAINED_LENGTH)
    trainer.add_callback(notes)
    trainer.train()
    return notes.found


def summarise(notes: list[dict]) -> dict | None:
    """Memory after a tenth of the notes and after all, the most, and its growth over the second half by a line.

    There is no growth where less than [`ENOUGH`] went by.
    """
    if len(notes) < 4:
        return None
    late = notes[len(notes) // 2 :]
    slope = None
    if notes[-1]["bytes"] >= ENOUGH:
        slope = float(np.polyfit([note["bytes"] / 1e9 for note in late], [note["memory_mb"] for note in late], 1)[0])
    return {
        "gigabytes": notes[-1]["bytes"] / 1e9,
        "early_mb": notes[len(notes) // 10]["memory_mb"],
        "late_mb": notes[-1]["memory_mb"],
        "most_mb": max(note["memory_mb"] for note in notes),
        "growth_mb_per_gb": slope,
    }


def print_results(results: dict, console: Console) -> None:
    table = build_table(
        "Memory while text goes by",
        "",
        "GB of text",
        "MB after a tenth",
        "MB at the end",
        "most MB",
        "MB more a GB, late",
    )
    for name, found in results["figures"].items():
        if found is not None:
            table.add_row(name, number(found["gigabytes"], 3), *(number(found[key], 1) for key in list(found)[1:]))
    console.print(table)


@click.command("streaming", cls=Command, help=help_of(__doc__))
@option("--gigabytes", type=float, default=50.0, help="Of text to read; 0 for none.")
@option("--minutes", type=float, default=0.0, help="Of training; 0 for none.")
@option("--shards", type=POSITIVE, default=16)
@option("--shard-megabytes", type=POSITIVE, default=64)
@option("--sequence-length", type=POSITIVE, default=4096, help="Ids of a row that is read.")
@option("--output", type=FILE, default=Path("runs/benchmarks/streaming.json"), help="JSON file to write.")
@option("--seed", type=int, default=0)
def main(**given) -> None:
    options, console = SimpleNamespace(**given), build_console()
    results = {"machine": describe_machine(), "settings": {name: str(value) for name, value in given.items()}}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "texts")
        results["text_bytes"] = write_shards(folder, options.shards, options.shard_megabytes, options.seed)
        runs = {"reading": list(read(folder, options.gigabytes, options.sequence_length, options.seed))}
        if options.minutes:
            runs["training"] = train(folder, Path(scratch), options.minutes, options.seed)
    results |= {"figures": {name: summarise(notes) for name, notes in runs.items()}, "runs": runs}
    print_results(results, console)
    save(options, results, console)


if __name__ == "__main__":
    main()
