"""Where the lines come from: packages, the files to read in them, and how.

Package descriptions are left out: their translators' licence is not told anywhere that could go with the text.
"""

import gzip
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..packages import Package
from .catalogs import translations
from .languages import Language, language_of
from .markup import blocks_of_markup
from .roff import paragraphs_of_man

Blocks = Callable[[Path], Iterator[str]]


def read_page(path: Path) -> Iterator[str]:
    return blocks_of_markup(path.read_text(encoding="utf-8", errors="replace"))


def read_manual(path: Path) -> Iterator[str]:
    return paragraphs_of_man(gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace"))


def read_catalog(path: Path) -> Iterator[str]:
    for text in translations(path.read_bytes()):
        yield from text.split("\n\n")


@dataclass(frozen=True)
class LineSource:
    """Packages read in one way.

    Args:
        packages: names; a `{}` in one stands for each of `tags`.
        licence: what the packages' copyright files say in short; they are copied beside the data.
        files: a regular expression that the paths to read match from `usr/` on.
        read: a file's blocks of text.
        prose: whether it is the out-of-domain test, never trained on.
    """

    name: str
    packages: tuple[str, ...]
    licence: str
    description: str
    files: str
    read: Blocks
    tags: str = ""
    prose: bool = False
    pattern: re.Pattern = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "pattern", re.compile(self.files))

    def package_names(self) -> list[str]:
        """The packages' names, one for each tag where they have a `{}`."""
        return [name.format(tag) for name in self.packages for tag in (self.tags.split() if "{}" in name else [""])]

    def matching(self, folder: Path) -> list[tuple[str, Path]]:
        """The files to read below an unpacked package's `folder`, in order: from `usr/` on, and as a path."""
        found = [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*"))]
        return [
            (name, path)
            for name, path in found
            if self.pattern.search(name) and not path.is_symlink() and path.is_file()
        ]

    def find(self, folder: Path) -> list[tuple[str, Language, Path]]:
        """Document, language and path of each file whose path names a language, in order."""
        found = [(name, language_of(name), path) for name, path in self.matching(folder)]
        return [
            (document_name(name, language), language, path) for name, language, path in found if language is not None
        ]

    def to_manifest(self, packages: list[Package]) -> dict:
        """What the manifest says about the source and the packages that were read of it."""
        return {
            "name": self.name,
            "description": self.description,
            "license": self.licence,
            "packages": [package.to_manifest() for package in packages],
        }


def document_name(path: str, language: Language) -> str:
    """A file's path with its language left out: the translations of one document have one name."""
    names = "|".join(re.escape(name) for name in language.names)
    return re.sub(rf"(?<=[/.])(?:{names})(?=[/.])", "*", re.sub(r"(?<=/)LC_MESSAGES/", "", path))


SOURCES = (
    LineSource(
        name="libreoffice-help",
        packages=("libreoffice-help-{}",),
        tags="cs de es fr hu pl pt-br tr vi",
        licence="MPL-2.0",
        description="LibreOffice's help",
        files=r"usr/share/libreoffice/help/[\w-]+/text/.*\.html$",
        read=read_page,
    ),
    LineSource(
        name="manpages",
        packages=(
            *(f"manpages-{tag}" for tag in "cs de es fr hu pl pt-br ro tr vi".split()),
            *(f"manpages-{tag}-dev" for tag in "cs de es fr pl pt-br".split()),
        ),
        licence="GPL-3+ (translations), various (pages)",
        description="Translated manual pages",
        files=r"usr/share/man/[\w@-]+/man\d/.*\.gz$",
        read=read_manual,
    ),
    LineSource(
        name="debian-docs",
        packages=(
            *(f"debian-reference-{tag}" for tag in "de es fr pt-br".split()),
            *(f"maint-guide-{tag}" for tag in "de es fr vi".split()),
            *(f"debian-faq-{tag}" for tag in "de fr".split()),
            *(f"developers-reference-{tag}" for tag in "de fr".split()),
            "debian-handbook",
        ),
        licence="GPL-2+ (handbook: or CC-BY-SA-3.0)",
        description="Debian's handbook, reference, maintainers' guide, questions and developers' reference",
        files=r"usr/share/(doc/)?(debian|maint-guide|developers-reference|debian-reference)[^/]*/.*\.html$",
        read=read_page,
    ),
    LineSource(
        name="gimp-help",
        packages=("gimp-help-{}",),
        tags="cs de es fr hu pt-br ro",
        licence="GFDL-1.2+",
        description="GIMP's manual",
        files=r"usr/share/gimp/2\.0/help/[\w-]+/.*\.html$",
        read=read_page,
    ),
    LineSource(
        name="gnome-help",
        packages=("gnome-user-docs",),
        licence="CC-BY-SA-3.0",
        description="GNOME's user and administration guides",
        files=r"usr/share/help/[\w@-]+/.*\.page$",
        read=read_page,
    ),
    LineSource(
        name="programs",
        packages=(
            "aptitude-common", "bash", "binutils-common", "coreutils", "gcc-12-locales", "gettext", "git",
            "gnucash-common", "gnupg-l10n", "libgtk-3-common", "libreoffice-l10n-ro", "lyx-common", "tar",
            "util-linux-locales", "vlc-l10n", "wget",
        ),
        licence="GPL-2+, GPL-3+, LGPL-2+, MPL-2.0",
        description="Messages of programs",
        files=r"usr/.*/LC_MESSAGES/[^/]*\.mo$",
        read=read_catalog,
    ),
    LineSource(
        name="wesnoth",
        packages=("wesnoth-1.16-data", "wesnoth-1.16-dw", "wesnoth-1.16-httt"),
        licence="GPL-2+",
        description="The Battle for Wesnoth: tales, dialogues and descriptions",
        files=r"usr/share/games/wesnoth/.*/LC_MESSAGES/wesnoth-(dw|httt|help|units|tutorial|wc)\.mo$",
        read=read_catalog,
        prose=True,
    ),
)  # fmt: skip
