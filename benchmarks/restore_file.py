"""A file of many damaged lines: `fblt restore`, killed once and begun again, against one line at a time.

    python -m benchmarks.restore_file --threads 2

The file has held-out lines of every language, damaged in turn in the four ways. `fblt restore` is killed (`kill -9`)
once some of its batches are done, and the same command ends the work: its seconds are those of both processes, their
start included. Then some of the lines, spread over the file, are restored one at a time with plain decoding (`ar`), and
the texts compared.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
from fblt.training.data.restore.damage import KINDS, damage
from fblt.training.packing.damaged_lines import load_lines
from rich.console import Console

from fblt.restoring import restore_pieces
from modeling_fblt import FBLTForCausalLM

from .harness import (
    CLOCKS,
    DTYPES,
    FILE,
    POSITIVE,
    benchmark,
    build_console,
    build_table,
    number,
    option,
    save,
    start,
    summary_of,
)

DONE_WHEN_KILLED = (0.1, 0.5)  # shares of the batches, between which the kill is drawn


def damaged_lines(options: SimpleNamespace) -> list[str]:
    """Different damaged lines in a drawn order; where the lines are used up, they come again with other damage."""
    rows = load_lines(options.data, "test")
    texts = rows.select(np.random.default_rng(options.seed).permutation(len(rows)))["text"]
    found: dict[str, None] = {}
    for index in range(len(texts) * len(KINDS)):
        turn, place = divmod(index, len(texts))
        kind = KINDS[(place + turn) % len(KINDS)]
        found[damage(texts[place], kind, np.random.default_rng((options.seed, index)))] = None
        if len(found) == options.lines:
            break
    return list(found)


def command(options: SimpleNamespace, lines: Path, output: Path) -> list[str]:
    found = [sys.executable, "-m", "fblt", "restore", str(lines), "--output", str(output), "--model", options.model]
    return [*found, "--batch-size", str(options.batch_size)]


def through_a_kill(options: SimpleNamespace, folder: Path, lines: Sequence[str]) -> tuple[float, int, list[str]]:
    """Seconds of both processes, batches that were done when the first was killed, and the lines restored."""
    file, output = folder / "lines.txt", folder / "restored.txt"
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    journal = output.with_name(f".{output.name}-partial")
    batches = -(-len(lines) // options.batch_size)
    done = int(batches * random.Random(options.seed).uniform(*DONE_WHEN_KILLED))
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(options.threads)} if options.threads else {})}

    def written() -> int:  # the first line says what the run is
        return max(0, journal.read_bytes().count(b"\n") - 1) if journal.is_file() else 0

    began = time.perf_counter()
    first = subprocess.Popen(command(options, file, output), env=environment, stderr=subprocess.DEVNULL)
    while first.poll() is None and written() < done:
        time.sleep(0.01)
    first.kill()
    first.wait()
    killed = written()
    subprocess.run(command(options, file, output), env=environment, check=True, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    return seconds, killed, output.read_text(encoding="utf-8").splitlines()


def restore_singly(options: SimpleNamespace, lines: Sequence[str]) -> tuple[float, list[str]]:
    """Seconds, and the lines restored one at a time with plain decoding."""
    model = FBLTForCausalLM.from_pretrained(options.model, dtype=DTYPES[options.dtype]).eval()
    restore_pieces(model, lines[:1], 1, {"decoding": "ar"})  # the first call sets things up
    began = CLOCKS[options.clock]()
    restored = restore_pieces(model, lines, 1, {"decoding": "ar"})
    return CLOCKS[options.clock]() - began, [text or line for text, line in zip(restored, lines, strict=True)]


def size(lines: Sequence[str]) -> int:
    return sum(len(line.encode()) for line in lines)


def print_results(results: dict, console: Console) -> None:
    caption = summary_of(results["machine"], results["dtype"], results["clock"])
    table = build_table("Restoring a file", "way", "lines", "seconds", "bytes/s", "x one by one", caption=caption)
    for name in ("file", "one by one"):
        found = results[name]
        speed = found["bytes"] / found["seconds"]
        ratio = number(results["speed"]) if name == "file" else number(1.0)
        table.add_row(name, str(found["lines"]), number(found["seconds"], 1), number(speed, 0), ratio)
    console.print(table)
    console.print(
        f"killed after {results['killed_after']} of {results['batches']} batches; {results['file']['lines']} lines out "
        f"of {results['given']}; {results['equal']} of {results['one by one']['lines']} as one by one",
        highlight=False,
    )


@benchmark(__doc__, "restore_file", repetitions=1, dtype="float32")
@option("--model", default="checkpoints/fblt-restore", help="Checkpoint folder.")
@option("--data", type=FILE, default=Path("data/restore"), help="Lines to restore.")
@option("--lines", type=POSITIVE, default=10_000)
@option("--singly", type=POSITIVE, default=100, help="Lines that are restored one at a time.")
@option("--batch-size", type=POSITIVE, default=32)
def main(options: SimpleNamespace) -> dict:
    if options.quick:
        options.lines, options.singly, options.batch_size = 12, 3, 2
    results, console = start(options), build_console()
    lines = damaged_lines(options)
    with TemporaryDirectory() as folder:
        seconds, killed, restored = through_a_kill(options, Path(folder), lines)
    chosen = np.linspace(0, len(lines) - 1, min(options.singly, len(lines))).astype(int)
    seconds_singly, singly = restore_singly(options, [lines[index] for index in chosen])
    results |= {
        "given": len(lines),
        "batches": -(-len(lines) // options.batch_size),
        "killed_after": killed,
        "file": {"lines": len(restored), "bytes": size(restored), "seconds": seconds},
        "one by one": {"lines": len(singly), "bytes": size(singly), "seconds": seconds_singly},
        "speed": size(restored) / seconds / (size(singly) / seconds_singly),
        "equal": sum(restored[index] == text for index, text in zip(chosen, singly, strict=True)),
    }
    print_results(results, console)
    save(options, results, console)
    return results


if __name__ == "__main__":
    main()
