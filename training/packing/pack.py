"""Packs texts, from wherever `datasets` reads them, into rows of bytes with their patch starts, ready for training.

\b
    fblt pack --source data/demo --model checkpoints/fblt-demo --sequence-length 512 --output data/packed
    fblt pack --source web='corpus/**/*.jsonl.gz' --license web=CC-BY-4.0 --hold-out 0.01 \\
        --recipe training/recipes/demo.yaml --sequence-length 2048 --workers 8 --output data/packed
    fblt pack --source chat=data/sft --prompt-column prompt --completion-column completion ...

A source is a file, a glob, a folder of files, a folder that `datasets` saved, or a Hub name. Documents stand end to
end, each closed by `</s>`; instructions take a row each. The patch starts are those that the model finds itself;
training refuses rows of another patcher. The folder appears when it is complete; killed, the same command goes on.
"""

from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

from fblt.commands import Command

from .build import pack_corpus
from .options import PackOptions
from .parts import Part


def print_table(manifest: dict, console: Console) -> None:
    """Prints rows, MB (10^6 bytes) and patch length per split."""
    table = Table(title="packed")
    for heading in ("split", "documents", "MB of text", "rows", "bytes per patch"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for split, counts in manifest["splits"].items():
        parts = [source["splits"][split] for source in manifest["sources"]]
        length = f"{counts['mean_patch_length']:.2f}" if "patches" in counts else "found online"
        documents, size = (sum(part[key] for part in parts) for key in ("documents", "bytes"))
        table.add_row(split, str(documents), f"{size / 1e6:.2f}", str(counts["rows"]), length)
    console.print(table)


def pairs(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE`, several times, as a dictionary."""
    found = [text.partition("=") for text in given]
    for text, (name, equals, value) in zip(given, found, strict=True):
        if not (name and equals and value):
            raise click.BadParameter(f"{text!r} is not NAME=VALUE")
    return {name: value for name, _, value in found}


def byte_counts(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, int]:
    """`NAME=BYTES`, several times, as a dictionary."""
    found = pairs(context, parameter, given)
    for name, value in found.items():
        if not value.isdecimal():
            raise click.BadParameter(f"{name}={value} is no whole number of bytes")
    return {name: int(value) for name, value in found.items()}


def part(context: click.Context, parameter: click.Parameter, given: str | None) -> Part | None:
    return None if given is None else Part.parse(given)


def parse_arguments(arguments: list[str]) -> PackOptions:
    """The options that a command line gives, as the command itself takes them."""
    return PackOptions(**main.make_context("pack", list(arguments)).params)


@click.command(cls=Command, help=__doc__)
@click.option("--source", multiple=True, required=True, metavar="[NAME=]LOCATION", help="Texts; several times if need.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--sequence-length", type=int, required=True, metavar="BYTES", help="Ids per row.")
@click.option("--model", help="Saved FBLT, folder or Hub name, whose patcher finds the patch starts.")
@click.option("--recipe", help="YAML recipe whose patcher (`fblt train-patcher`) or `init_from` finds them.")
@click.option("--patch-online", is_flag=True, help="Leave the patch starts to training, which finds them at each step.")
@click.option("--text-column", help="Column of documents; default: text.")
@click.option("--prompt-column", help="Column of prompts, which carry no loss; with --completion-column.")
@click.option("--completion-column", help="Column of completions.")
@click.option("--license", multiple=True, callback=pairs, metavar="NAME=LICENCE", help="A source's licence.")
@click.option(
    "--max-bytes", multiple=True, callback=byte_counts, metavar="NAME=BYTES", help="Limit of a source in train."
)
@click.option(
    "--hold-out", type=float, metavar="SHARE", help="Documents that become validation where a source brings none."
)
@click.option("--seed", type=int, default=PackOptions.seed, show_default=True, help="Of the documents' order.")
@click.option("--streaming", is_flag=True, help="Read sources in order, up to their limits, not all of them first.")
@click.option(
    "--batch-size", type=int, default=PackOptions.batch_size, show_default=True, help="Rows per call of the patcher."
)
@click.option(
    "--device", default=lambda: "cuda" if torch.cuda.is_available() else "cpu", help="Of the patcher; a GPU if there."
)
@click.option(
    "--workers", type=int, default=PackOptions.workers, show_default=True, help="Processes, a thread each on a CPU."
)
@click.option(
    "--part",
    callback=part,
    metavar="K/N",
    help="Make the K-th of N parts alone, for a machine of several; the command without it joins them.",
)
@click.option("--overwrite", is_flag=True, help="Replace packed rows in --output.")
def main(**given) -> None:
    options = PackOptions(**given)
    manifest = pack_corpus(options)
    if manifest is None:
        click.echo(f"part written: {options.part.folder(options.output)}; the command without --part joins all parts")
        return
    print_table(manifest, Console())
    click.echo(f"written: {options.output}")


if __name__ == "__main__":
    main()
