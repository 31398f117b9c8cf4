"""Restores the lines of a file: accents, case, punctuation and typing errors.

    fblt restore notes.txt --output restored.txt
    some-command | fblt restore > restored.txt

Lines in, lines out, in their order. With `--output`, the same command goes on where a killed one stopped; the file
appears when all of it is restored.
"""

import hashlib
import sys
from pathlib import Path

import click
import torch

from .batches import weights_digest, written_result
from .commands import Command
from .inputs import load
from .remote_code import CHECKOUT
from .restoring import LONGEST, restore_pieces, restore_text

BUNDLED = CHECKOUT / "checkpoints" / "fblt-restore"


@click.command(cls=Command)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True), default="-")
@click.option("--model", help="Folder or Hub repository.  [default: the checkout's checkpoints/fblt-restore]")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write.  [default: stdout]")
@click.option("--decoding", help="ar, blt-s, blt-d or blt-dv.  [default: as configured]")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Lines at a time.")
@click.option("--device", default="cpu", show_default=True, help="Where to run: cpu, cuda, mps.")
def main(file: str, model: str | None, output: Path | None, decoding: str | None, batch_size: int, device: str) -> None:
    """Restore the lines of FILE (standard input by default).

    Bytes that are no text, empty lines and line ends stay as they are.
    """
    if model is None and not (BUNDLED / "config.json").is_file():
        raise ValueError(f"--model: is not given, and there is no {BUNDLED}; give a folder or a Hub repository")
    if output is not None and file != "-" and output.resolve() == Path(file).resolve():
        raise ValueError(f"--output {output}: is FILE itself; give another file")
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    # A CPU computes in float32 fastest, whatever the weights were saved in.
    network, _ = load(model or str(BUNDLED), device, torch.float32 if device == "cpu" else "auto")
    settings = {} if decoding is None else {"decoding": decoding}
    run = {
        "FILE": hashlib.sha256(data).hexdigest(),
        "--model": weights_digest(network),
        "--decoding": decoding,
        "--batch-size": batch_size,
        "--device": str(network.device),
        "longest piece": LONGEST,
    }
    with written_result(output, run) as (journal, file):
        text, counts = restore_text(
            data, lambda pieces: restore_pieces(network, pieces, batch_size, settings, journal, "restoring")
        )
        file.write(text)
    click.echo(report(counts), err=True)


def report(counts: dict[str, int]) -> str:
    """What was done, and what was not, in a line."""
    told = f"{counts['lines']} lines, {counts['pieces']} different texts of up to {LONGEST} bytes restored"
    if counts["kept"]:
        told += f", {counts['kept']} of them left as they were: the model wrote no line for them"
    if counts["left_alone"]:
        told += f"; {counts['left_alone']} lines hold no text to restore and were left alone"
    return told


if __name__ == "__main__":
    main()
