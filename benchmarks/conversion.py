# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Peak memory of a conversion: a random checkpoint of BLT-1B's geometry in bfloat16, converted in a process of its own.

    python -m benchmarks.conversion --output conversion.json [--hash-rows 100003]

The checkpoint is made, shard by shard, in a temporary folder: as much as its size twice over is needed there. The full
tables (`--hash-rows 500002`) make it 9 GB. Peak memory is the child's largest resident set, mapped file pages included,
and a child that only imports the package is measured beside it.
"""

import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import torch
from fblt.conversion.export_blt import export
from fblt.conversion.folder import write_folder
from fblt.conversion.open_checkpoint import empty_model, shapes_of
from fblt.conversion.writing import Entry, write_safetensors

from fblt.commands import Command
from fblt.files import write_text_atomically
from modeling_fblt import FBLTConfig

from .harness import FILE, POSITIVE, REPOSITORY, Listed, help_of

LAYOUTS = ("meta", "training", "transformers")
IDLE = "import fblt.conversion.convert_blt"


def make_fblt(folder: Path, hash_rows: int) -> None:
    """A random FBLT of BLT-1B's geometry, which the layouts are then exported from."""
    config = FBLTConfig(
        encoder_config={"hash_vocab_size": hash_rows},
        decoder_config={"input": "encoder"},
        max_patch_length=None,
        isolate_documents=False,
    )
    model = empty_model(config)
    folder.mkdir()
    write_folder(folder, model, torch.bfloat16)
    entries = [Entry(key, shape, torch.bfloat16, _random(shape)) for key, shape in shapes_of(model).items()]
    write_safetensors(folder, entries, 10**9)


def _random(shape: tuple[int, ...]):
    def parts():
        # Some rows at a time, so that making the largest table takes no more memory than any other tensor.
        for rows in torch.arange(shape[0]).split(8192):
            yield torch.empty(len(rows), *shape[1:], dtype=torch.bfloat16).normal_(std=0.02)

    return parts


def measure(arguments: list[str]) -> tuple[float, float]:
    """Peak resident set in bytes and seconds of a Python process."""
    script = (
        "import resource, subprocess, sys;"
        "code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode;"
        "print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    start = time.perf_counter()
    command = [sys.executable, "-c", script, sys.executable, *arguments]
    code, peak = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY).stdout.split()
    if int(code):
        raise RuntimeError(f"failed: {' '.join(arguments)}")
    unit = 1 if platform.system() == "Darwin" else 1024
    return int(peak) * unit, time.perf_counter() - start


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for name in ("*.safetensors", "*.pth") for file in folder.rglob(name))


@click.command(cls=Command, help=help_of(__doc__))
@click.option("--output", type=FILE, required=True, help="JSON file to write.")
@click.option(
    "--hash-rows", type=POSITIVE, default=100003, show_default=True, help="Rows of each hash table; BLT-1B has 500002."
)
@click.option("--layouts", type=Listed(click.Choice(LAYOUTS)), default=list(LAYOUTS), help="Default: all.")
def main(output: Path, hash_rows: int, layouts: list[str]) -> None:
    results = {"machine": platform.platform(), "torch": torch.__version__, "hash_rows": hash_rows, "runs": []}
    results["idle_bytes"], _ = measure(["-c", IDLE])
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        make_fblt(root / "fblt", hash_rows)
        for layout in layouts:
            export(root / "fblt", root / "source", layout, "1GB")
            size = size_of(root / "source")
            command = ["-m", "fblt.conversion.convert_blt", "--no-validate", "--max-shard-size", "1GB"]
            peak, seconds = measure([*command, "--source", str(root / "source"), "--output", str(root / "converted")])
            run = {"layout": layout, "bytes": size, "peak_bytes": peak, "ratio": peak / size, "seconds": seconds}
            results["runs"].append(run)
            for folder in ("source", "converted"):
                shutil.rmtree(root / folder)
    write_text_atomically(output, json.dumps(results, indent=2) + "\n")
    print(f"{'layout':<14}{'size GB':>9}{'peak GB':>9}{'ratio':>7}{'seconds':>9}")
    for run in results["runs"]:
        sizes = f"{run['bytes'] / 1e9:>9.2f}{run['peak_bytes'] / 1e9:>9.2f}"
        print(f"{run['layout']:<14}{sizes}{run['ratio']:>7.2f}{run['seconds']:>9.0f}")
    print(f"an idle process: {results['idle_bytes'] / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
