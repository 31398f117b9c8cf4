"""Folders of lines made of Debian packages: what building any of them shares, from arguments to manifest and table."""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from datasets import Dataset, DatasetDict, disable_progress_bars
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from .manifest import MANIFEST
from .packages import Package, check_tools, download, missing_packages


def build_options(example: str, train_bytes: int) -> Callable[[Callable], Callable]:
    """The options that the commands have in common, as a decorator.

    Args:
        example: a folder to write, for `--help`.
        train_bytes: default of `--train-bytes`.
    """
    folder = click.Path(path_type=Path)
    options = (
        click.option("--output", type=folder, required=True, help=f"Folder to write, such as {example}."),
        click.option(
            "--cache-dir",
            type=folder,
            default=Path("data/packages"),
            show_default=True,
            help="Where downloaded .deb files stay.",
        ),
        click.option(
            "--packages", type=folder, help="Folder that already holds the .deb files: nothing is downloaded."
        ),
        click.option(
            "--train-bytes",
            type=int,
            default=train_bytes,
            show_default=True,
            help="Most bytes of training text per language.",
        ),
        click.option(
            "--seed", type=int, default=0, show_default=True, help="Chooses held-out documents and the lines kept."
        ),
        click.option("--overwrite", is_flag=True, help="Replace an earlier result in --output."),
    )

    def add(command: Callable) -> Callable:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def check_arguments(
    names: Iterable[str],
    output: Path,
    packages_folder: Path,
    may_download: bool,
    train_bytes: int,
    seed: int,
    overwrite: bool,
) -> None:
    """Raises an error that names argument, value and remedy; `names` are the packages that the work needs."""
    if seed < 0:
        raise ValueError(f"--seed {seed}: must be 0 or more")
    if train_bytes < 1:
        raise ValueError(f"--train-bytes {train_bytes}: must be 1 or more")
    if output.exists() and not overwrite:
        raise ValueError(f"--output {output}: exists already; choose another folder or pass --overwrite")
    if output.exists() and not (output / MANIFEST).is_file():
        raise ValueError(f"--output {output}: has no manifest.json, so it is not replaced; choose another folder")
    if not may_download:
        if not packages_folder.is_dir():
            raise ValueError(f"--packages {packages_folder}: no such folder; give the one that holds the .deb files")
        if missing := missing_packages(list(names), packages_folder):
            raise ValueError(f"--packages {packages_folder}: lacks {', '.join(missing)}; add their .deb files")
    check_tools(download=may_download)


def download_missing(names: Iterable[str], folder: Path) -> None:
    """Downloads the packages of which `folder` has no file."""
    for name in tqdm(missing_packages(list(names), folder), desc="downloading", unit="package"):
        download(name, folder)


def keep_notice(package: Package, unpacked: Path, licences: Path) -> None:
    """Copies an unpacked package's copyright file to `licences`: its licence asks that it goes with the text."""
    notice = unpacked / "usr/share/doc" / package.name / "copyright"
    if notice.is_file():
        shutil.copyfile(notice, licences / f"{package.name}.txt")


def write_folder(
    splits: Mapping[str, Sequence[Any]],
    columns: Mapping[str, str],
    head: dict,
    languages: Iterable[str],
    sources: Iterable[dict],
    folder: Path,
) -> dict:
    """Writes the data set and its manifest into `folder`; returns the manifest.

    Args:
        splits: each one's lines, which have `source`, `document`, `language` and `text`.
        columns: by a column's name the line's field that it holds; `split` comes beside them.
        head: what the manifest begins with: script, version, seed, limits, transformations.
        languages: codes.
        sources: what the manifest says of each source, `name` among it; counts and held-out documents are added.
    """
    disable_progress_bars()  # our own bars say enough
    DatasetDict(
        {
            split: Dataset.from_dict(
                {
                    **{name: [getattr(line, field) for line in lines] for name, field in columns.items()},
                    "split": [split] * len(lines),
                }
            )
            for split, lines in splits.items()
        }
    ).save_to_disk(folder)
    manifest = {
        **head,
        "languages": {
            code: {split: amount(lines, language=code) for split, lines in splits.items()} for code in languages
        },
        "sources": [
            {
                **source,
                "splits": {split: amount(lines, source=source["name"]) for split, lines in splits.items()},
                "held_out_groups": {
                    split: sorted({line.document for line in splits[split] if line.source == source["name"]})
                    for split in ("validation", "test")
                },
            }
            for source in sources
        ],
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


def amount(lines: Iterable[Any], **where: str) -> dict[str, int]:
    """Lines and bytes of text of the lines with these values."""
    sizes = [
        len(line.text.encode()) for line in lines if all(getattr(line, key) == value for key, value in where.items())
    ]
    return {"lines": len(sizes), "bytes": sum(sizes)}


def print_table(manifest: dict, console: Console) -> None:
    """Prints lines and MB (10^6 bytes) per language or source and split."""
    splits = list(next(iter(manifest["languages"].values())))
    table = Table(title="lines / MB")
    table.add_column("")
    for heading in splits:
        table.add_column(heading, justify="right")

    def add(name: str, counts: dict) -> None:
        table.add_row(name, *(f"{counts[split]['lines']} / {counts[split]['bytes'] / 1e6:.2f}" for split in splits))

    for name, counts in manifest["languages"].items():
        add(name, counts)
    table.add_section()
    for source in manifest["sources"]:
        add(source["name"], source["splits"])
    table.add_section()
    by_language = manifest["languages"].values()
    table.add_row("all", *(str(sum(counts[split]["lines"] for counts in by_language)) for split in splits))
    console.print(table)
