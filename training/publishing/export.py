"""Makes a folder to load and share from a training checkpoint: bfloat16 weights (patcher: float32), code, tokenizer.

\b
    fblt export --source runs/demo/checkpoint-11000 --output checkpoints/fblt-demo

The code is copied as files, so that the folder loads wherever it is put. It appears whole or not at all.
"""

import json
import shutil
from pathlib import Path

import click
import torch

from fblt.checksums import check_folder
from fblt.commands import Command
from fblt.files import appearing_folder
from fblt.tokenizers import check_saved_tokenizer
from modeling_fblt import FBLTForCausalLM

from ..running.progress import PROGRESS_FILE, progress_of

MADE = (".json", ".py", ".safetensors")  # what an export writes anew; other files of an earlier export stay


def export(source: Path, output: Path, max_megabytes: float) -> float:
    """Writes `output` and returns the MB (10^6 bytes) of its weights.

    Raises:
        ValueError: no checkpoint in `source`, or a damaged one, or a tokenizer that is not the weights', `output` is
            something else, or the weights are too large; nothing is written then.
    """
    check_folders(source, output)
    check_saved_tokenizer(source, f"--source {source}")
    check_folder(source)
    with appearing_folder(output) as complete:
        FBLTForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(complete)
        megabytes = sum(file.stat().st_size for file in complete.glob("*.safetensors")) / 1e6
        if megabytes > max_megabytes:
            raise ValueError(
                f"--source {source}: its weights take {megabytes:.1f} MB in bfloat16, "
                f"more than --max-megabytes {max_megabytes:g}"
            )
        progress = progress_of(source)
        if progress is not None:
            (complete / PROGRESS_FILE).write_text(json.dumps(progress, indent=2) + "\n")
        keep_other_files(output, complete)
        for file in complete.iterdir():
            file.chmod(0o644)
    return megabytes


def check_folders(source: Path, output: Path) -> None:
    """Refuses a source that is no checkpoint and an output that is no earlier export."""
    if not (source / "config.json").is_file():
        raise ValueError(f"--source {source}: holds no config.json; give a checkpoint such as runs/demo/checkpoint-500")
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output}: is a file; give a folder")
    if output.is_symlink():
        raise ValueError(f"--output {output}: is a link; give the folder itself")
    if output.is_dir():
        # A model card may have been written before the first export.
        others = [entry for entry in output.iterdir() if entry.name != "README.md"]
        if any(entry.is_dir() for entry in others) or (others and not (output / "config.json").is_file()):
            raise ValueError(f"--output {output}: is no earlier export, so it is not replaced; give another folder")


def keep_other_files(output: Path, folder: Path) -> None:
    """Copies what an export does not make itself, such as the model card, from the earlier folder."""
    if output.is_dir():
        for file in output.iterdir():
            if file.suffix not in MADE and not file.is_symlink():
                shutil.copy2(file, folder / file.name)


@click.command(cls=Command, help=__doc__)
@click.option("--source", type=click.Path(path_type=Path), required=True, help="A checkpoint folder.")
@click.option(
    "--output", type=click.Path(path_type=Path), required=True, help="Folder to write; an earlier export is replaced."
)
@click.option("--max-megabytes", type=float, default=20, show_default=True, help="Limit for the weights.")
def main(source: Path, output: Path, max_megabytes: float) -> None:
    megabytes = export(source, output, max_megabytes)
    click.echo(f"written: {output}, {megabytes:.2f} MB of weights")


if __name__ == "__main__":
    main()
