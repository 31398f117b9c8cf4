"""Builds the lines to restore: Debian packages of translated documentation -> a `datasets` folder with a manifest.

    fblt prepare restore --output data/restore

Columns: `source`, `group` (the document), `language`, `license`, `split`, `text`. Splits: train, validation, test
(documents held out of the same packages), test_prose (other packages: tales and dialogues rather than software).
"""

import tempfile
from pathlib import Path

import click
from rich.console import Console
from tqdm import tqdm

from fblt.commands import Command
from fblt.files import appearing_folder

from ..folder import build_options, check_arguments, download_missing, keep_notice, print_table, write_folder
from ..packages import Package, PackageError, read_package, unpack
from .languages import LANGUAGES
from .lines import lines_of
from .sources import SOURCES, LineSource
from .splits import Limits, Line, assign

SCRIPT_VERSION = 1  # raise it when the same packages and seed give other lines
TRANSFORMATIONS = (
    "UTF-8 in NFC, runs of blanks made one, soft hyphens out, Romanian cedillas made commas",
    "blocks of more than 200 bytes cut into sentences; lines of 20 to 200 bytes and three words or more kept",
    "nine tenths letters, blanks and plain punctuation; lines with signs of markup, formats or commands left out",
    "lines left in English or in another script left out",
    "lines that are equal without case, marks, digits, punctuation and blanks kept once, tests before training",
)
COLUMNS = {
    "source": "source",
    "group": "document",
    "language": "language",
    "license": "license",
    "text": "text",
}


def prepare(
    output: Path, packages_folder: Path, may_download: bool, limits: Limits, seed: int, overwrite: bool
) -> dict:
    """Builds the data set and returns its manifest. `output` appears only when it is complete."""
    names = [name for source in SOURCES for name in source.package_names()]
    check_arguments(names, output, packages_folder, may_download, limits.train_bytes, seed, overwrite)
    download_missing(names, packages_folder)

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
        head = {
            "script": "training.data.restore",
            "script_version": SCRIPT_VERSION,
            "seed": seed,
            "limits": vars(limits),
            "transformations": list(TRANSFORMATIONS),
        }
        described = [source.to_manifest([package for own, package in packages if own is source]) for source in SOURCES]
        codes = [language.code for language in LANGUAGES]
        return write_folder(splits, COLUMNS, head, codes, described, complete)


def read_lines(source: LineSource, package: Package, scratch: Path, licences: Path) -> list[Line]:
    """The usable lines of a package, unpacked into `scratch`; its copyright file goes to `licences`."""
    unpack(package, scratch)
    keep_notice(package, scratch, licences)
    return [
        Line(source.name, document, language.code, source.licence, line)
        for document, language, path in source.find(scratch)
        for block in source.read(path)
        for line in lines_of(block, language)
    ]


@click.command(cls=Command)
@build_options("data/restore", Limits.train_bytes)
def main(output: Path, cache_dir: Path, packages: Path | None, train_bytes: int, seed: int, overwrite: bool) -> None:
    """Lines of ten languages to restore, from Debian's translated documentation.

    The folder comes with a manifest of packages and licences.
    """
    limits = Limits(train_bytes=train_bytes)
    manifest = prepare(output, packages or cache_dir, packages is None, limits, seed, overwrite)
    print_table(manifest, Console())
    click.echo(f"written: {output}")
