"""Builds the lines to restore: Debian packages of translated documentation -> a `datasets` folder with a manifest.

    fblt prepare restore --output data/restore

Columns: `source`, `group` (the document), `language`, `license`, `split`, `text`. Splits: train, validation, test
(documents held out of the same packages), test_prose (other packages: tales and dialogues rather than software).
"""

import json
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import click
from datasets import Dataset, DatasetDict, disable_progress_bars
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from fblt.commands import Command
from fblt.files import appearing_folder

from ..packages import Package, PackageError, check_tools, download, missing_packages, read_package, unpack
from .languages import LANGUAGES
from .lines import lines_of
from .sources import SOURCES, LineSource
from .splits import SPLITS, Limits, Line, assign

SCRIPT_VERSION = 1  # raise it when the same packages and seed give other lines
TRANSFORMATIONS = (
    "UTF-8 in NFC, runs of blanks made one, soft hyphens out, Romanian cedillas made commas",
    "blocks of more than 200 bytes cut into sentences; lines of 20 to 200 bytes and three words or more kept",
    "nine tenths letters, blanks and plain punctuation; lines with signs of markup, formats or commands left out",
    "lines left in English or in another script left out",
    "lines that are equal without case, marks, digits, punctuation and blanks kept once, tests before training",
)


def prepare(
    output: Path, packages_folder: Path, may_download: bool, limits: Limits, seed: int, overwrite: bool
) -> dict:
    """Builds the data set and returns its manifest. `output` appears only when it is complete."""
    check_arguments(output, packages_folder, may_download, limits, seed, overwrite)
    names = [name for source in SOURCES for name in source.package_names()]
    for name in tqdm(missing_packages(names, packages_folder), desc="downloading", unit="package"):
        download(name, packages_folder)

    with appearing_folder(output) as complete:
        (complete / "licenses").mkdir()
        lines, packages = [], []
        for source in SOURCES:
            for name in tqdm(source.package_names(), desc=source.name, unit="package"):
                packages.append((source, read_package(name, packages_folder)))
                with tempfile.TemporaryDirectory(dir=complete.parent) as scratch:
                    lines += read_lines(source, packages[-1][1], Path(scratch), complete / "licenses")
        splits = assign(lines, frozenset(source.name for source in SOURCES if source.prose), limits, seed)
        if empty := [split for split, own in splits.items() if not own]:
            raise PackageError(
                f"the packages in {packages_folder} hold no lines for {', '.join(empty)}; are they whole?"
            )
        manifest = write(splits, packages, complete, limits, seed)
    return manifest


def check_arguments(
    output: Path, packages_folder: Path, may_download: bool, limits: Limits, seed: int, overwrite: bool
) -> None:
    """Raises an error that names argument, value and remedy."""
    if seed < 0:
        raise ValueError(f"--seed {seed}: must be 0 or more")
    if limits.train_bytes < 1:
        raise ValueError(f"--train-bytes {limits.train_bytes}: must be 1 or more")
    if output.exists() and not overwrite:
        raise ValueError(f"--output {output}: exists already; choose another folder or pass --overwrite")
    if output.exists() and not (output / "manifest.json").is_file():
        raise ValueError(f"--output {output}: has no manifest.json, so it is not replaced; choose another folder")
    if not may_download:
        if not packages_folder.is_dir():
            raise ValueError(f"--packages {packages_folder}: no such folder; give the one that holds the .deb files")
        names = [name for source in SOURCES for name in source.package_names()]
        if missing := missing_packages(names, packages_folder):
            raise ValueError(f"--packages {packages_folder}: lacks {', '.join(missing)}; add their .deb files")
    check_tools(download=may_download)


def read_lines(source: LineSource, package: Package, scratch: Path, licences: Path) -> list[Line]:
    """The usable lines of a package, unpacked into `scratch`; its copyright file goes to `licences`."""
    unpack(package, scratch)
    notice = scratch / "usr/share/doc" / package.name / "copyright"
    if notice.is_file():
        shutil.copyfile(notice, licences / f"{package.name}.txt")
    return [
        Line(source.name, document, language.code, source.licence, line)
        for document, language, path in source.find(scratch)
        for block in source.read(path)
        for line in lines_of(block, language)
    ]


def write(
    splits: dict[str, list[Line]], packages: list[tuple[LineSource, Package]], folder: Path, limits: Limits, seed: int
) -> dict:
    """Writes the data set and `manifest.json` into `folder`; returns the manifest."""
    disable_progress_bars()  # our own bars say enough
    DatasetDict(
        {
            split: Dataset.from_dict(
                {
                    "source": [line.source for line in lines],
                    "group": [line.document for line in lines],
                    "language": [line.language for line in lines],
                    "license": [line.license for line in lines],
                    "split": [split] * len(lines),
                    "text": [line.text for line in lines],
                }
            )
            for split, lines in splits.items()
        }
    ).save_to_disk(folder)
    manifest = {
        "script": "training.data.restore",
        "script_version": SCRIPT_VERSION,
        "seed": seed,
        "limits": vars(limits),
        "transformations": list(TRANSFORMATIONS),
        "languages": {
            language.code: {split: amount(splits[split], language=language.code) for split in SPLITS}
            for language in LANGUAGES
        },
        "sources": [
            {
                "name": source.name,
                "description": source.description,
                "license": source.licence,
                "packages": [package.to_manifest() for own, package in packages if own is source],
                "splits": {split: amount(splits[split], source=source.name) for split in SPLITS},
                "held_out_groups": {
                    split: sorted({line.document for line in splits[split] if line.source == source.name})
                    for split in ("validation", "test")
                },
            }
            for source in SOURCES
        ],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


def amount(lines: list[Line], **where: str) -> dict[str, int]:
    """Lines and bytes of text of the lines with these values."""
    sizes = [
        len(line.text.encode()) for line in lines if all(getattr(line, key) == value for key, value in where.items())
    ]
    return {"lines": len(sizes), "bytes": sum(sizes)}


def print_table(manifest: dict, console: Console) -> None:
    """Prints lines and MB (10^6 bytes) per language or source and split."""
    table = Table(title="lines / MB")
    table.add_column("")
    for heading in SPLITS:
        table.add_column(heading, justify="right")
    sums: Counter[str] = Counter()
    rows = [*manifest["languages"].items(), *((row["name"], row["splits"]) for row in manifest["sources"])]
    for index, (name, splits) in enumerate(rows):
        if index == len(manifest["languages"]):
            table.add_section()
        table.add_row(name, *(f"{splits[s]['lines']} / {splits[s]['bytes'] / 1e6:.2f}" for s in SPLITS))
        if index < len(manifest["languages"]):
            sums.update({split: splits[split]["lines"] for split in SPLITS})
    table.add_section()
    table.add_row("all", *(str(sums[split]) for split in SPLITS))
    console.print(table)


@click.command(cls=Command)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder to write, such as data/restore.")
@click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    default=Path("data/packages"),
    show_default=True,
    help="Where downloaded .deb files stay.",
)
@click.option(
    "--packages",
    type=click.Path(path_type=Path),
    help="Folder that already holds the .deb files: nothing is downloaded.",
)
@click.option(
    "--train-bytes",
    type=int,
    default=Limits.train_bytes,
    show_default=True,
    help="Most bytes of training text per language.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses held-out documents and the lines kept.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier result in --output.")
def main(output: Path, cache_dir: Path, packages: Path | None, train_bytes: int, seed: int, overwrite: bool) -> None:
    """Lines of ten languages to restore, from Debian's translated documentation.

    The folder comes with a manifest of packages and licences.
    """
    limits = Limits(train_bytes=train_bytes)
    manifest = prepare(output, packages or cache_dir, packages is None, limits, seed, overwrite)
    print_table(manifest, Console())
    click.echo(f"written: {output}")
