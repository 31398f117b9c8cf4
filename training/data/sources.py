"""The demo data as a table: where each source comes from, its licence, and what is held out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .readers import Document, read_austen, read_bible, read_python, read_wordnet

MAX_SOURCE_BYTES = 13_000_000


@dataclass(frozen=True)
class HoldOut:
    """Which groups are held out: named ones, or so many picked by the hash of seed and name.

    `sizes`: smallest and largest group (bytes) that may be picked. A group is not picked when more than `max_shared` of
    its distinct lines also stand elsewhere in the source: near-copies would turn the test into recall.
    """

    validation: int | tuple[str, ...]
    test: int | tuple[str, ...]
    sizes: tuple[int, int] = (0, MAX_SOURCE_BYTES)
    max_shared: float = 0.2


@dataclass(frozen=True)
class DemoSource:
    name: str
    packages: tuple[str, ...]
    licence: str
    description: str
    transformations: tuple[str, ...]
    read: Callable[[Path], Iterator[Document]]
    hold_out: HoldOut


COMMON_TRANSFORMATIONS = (
    "UTF-8 in NFC, \\n newlines, no trailing blanks, one final newline",
    "each group of four leading spaces of a line replaced by a tab",
    "documents with equal text kept once",
    f"at most {MAX_SOURCE_BYTES} bytes per source, cut by whole training groups",
)

SOURCES = (
    DemoSource(
        name="python",
        packages=(
            "libpython3.11-minimal",
            "libpython3.11-stdlib",
            "python3-distutils",
            "idle-python3.11",
            "python3.11-examples",
        ),
        licence="PSF-2.0",
        description="Python 3.11: standard library, distutils, IDLE and the tools of the source distribution",
        transformations=("tests, generated tables, codecs and platform dumps left out", "one document per file"),
        read=read_python,
        hold_out=HoldOut(validation=12, test=24, sizes=(4_000, 60_000)),
    ),
    DemoSource(
        name="kjv",
        packages=("bible-kjv-text",),
        licence="Public domain",
        description="The Bible, King James Version",
        transformations=("one document per chapter: heading, blank line, one numbered verse per line",),
        read=read_bible,
        # John, not Mark: most of Mark stands in Matthew and Luke too.
        hold_out=HoldOut(validation=("Esther", "1 Peter"), test=("Ruth", "Jonah", "John", "James")),
    ),
    DemoSource(
        name="austen",
        packages=("r-cran-janeaustenr",),
        licence="Public domain (texts), MIT (package)",
        description="Jane Austen's six novels",
        transformations=(
            "one document per chapter, matter before the first chapter and editors' notes left out",
            "hard-wrapped lines joined into paragraphs, runs of blanks made one",
        ),
        read=read_austen,
        hold_out=HoldOut(validation=("Persuasion, first half",), test=("Persuasion, second half",)),
    ),
    DemoSource(
        name="wordnet",
        packages=("wordnet-base",),
        licence="WordNet 3.0 (Princeton University)",
        description="WordNet's words and glosses",
        transformations=(
            "a line `word, word: gloss` per synset, 100 consecutive synsets of a lexicographer file per document",
            "a synset whose definition stood before left out",
        ),
        read=read_wordnet,
        hold_out=HoldOut(validation=12, test=24, sizes=(4_000, 60_000)),
    ),
)
