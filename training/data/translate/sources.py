"""Where the pairs come from: the sources of the lines to restore, with the packages of their English originals.

As there, package descriptions are left out: their translators' licence is told nowhere.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..packages import Package
from ..restore.catalogs import messages
from ..restore.languages import BY_NAME, Language
from ..restore.sources import SOURCES as LINE_SOURCES
from ..restore.sources import LineSource, read_catalog
from .pairs import message_pairs, page_pairs

LANGUAGES = (BY_NAME["de"], BY_NAME["fr"])
ENGLISH_NAMES = ("en", "en-US", "en_US", "C")  # in paths; most English pages name no language
_BY_NAME = {source.name: source for source in LINE_SOURCES}


@dataclass(frozen=True)
class PairSource:
    """A source of lines and its English originals; messages of catalogues bring them along.

    Args:
        lines: what is read, and how.
        english: packages of the originals, read in the same way.
    """

    lines: LineSource
    english: tuple[str, ...] = ()

    def package_names(self) -> list[str]:
        """The packages' names, those of the originals first, each once."""
        return list(dict.fromkeys([*self.english, *self.lines.package_names()]))

    def originals(self, folder: Path) -> dict[str, list[str]]:
        """The blocks of the English pages below an unpacked package's `folder`, by their keys.

        Where some paths tell English, the others are in further languages; where none does, all are taken for English.
        """
        if self.lines.read is read_catalog:
            return {}
        files = [(name, page_key(name, ENGLISH_NAMES), path) for name, path in self.lines.matching(folder)]
        told = [(name, key, path) for name, key, path in files if key != name]
        return {key: list(self.lines.read(path)) for _, key, path in told or files}

    def pairs(
        self, folder: Path, originals: dict[str, list[str]]
    ) -> Iterator[tuple[str, Language, list[tuple[str, str]]]]:
        """Document, language and aligned blocks, with their English, of each file below an unpacked `folder`.

        Args:
            originals: of all packages of the source.
        """
        for document, language, path in self.lines.find(folder):
            if language not in LANGUAGES:
                continue
            if self.lines.read is read_catalog:
                yield document, language, list(message_pairs(messages(path.read_bytes())))
                continue
            name = path.relative_to(folder).as_posix()
            english = originals.get(page_key(name, language.names))
            if english is not None:
                yield page_key(name, language.names), language, page_pairs(list(self.lines.read(path)), english)

    def to_manifest(self, packages: list[Package]) -> dict:
        """See [`LineSource.to_manifest`]."""
        return self.lines.to_manifest(packages)


def page_key(path: str, names: tuple[str, ...]) -> str:
    """A page's path without its language, which a folder, a part of a folder's name, or of its own may tell.

    Translations of a page have one key, and so has the original, whose path tells `en` or nothing.
    """
    told = "|".join(map(re.escape, names))
    path = re.sub(rf"/(?:{told})(?=/)", "", path)
    return re.sub(rf"(?:\.(?:{told})(?=\.)|-(?:{told})(?=/))", "", path)


def _pairs(name: str, english: str, **changes) -> PairSource:
    return PairSource(replace(_BY_NAME[name], **changes), tuple(english.split()))


SOURCES = (
    _pairs("libreoffice-help", "libreoffice-help-en-us", tags="de fr"),
    _pairs(
        "manpages",
        "manpages manpages-dev bash coreutils diffutils dpkg apt e2fsprogs findutils gettext grep gzip mount passwd "
        "procps sed systemd tar util-linux wget",
        packages=("manpages-{}", "manpages-{}-dev", "dpkg", "apt", "passwd"),
        tags="de fr",
        files=r"usr/share/man/([\w@-]+/)?man\d/.*\.gz$",
    ),
    _pairs(
        "debian-docs",
        "debian-reference-en maint-guide debian-faq developers-reference debian-handbook",
        packages=(
            *("debian-reference-{}", "maint-guide-{}", "debian-faq-{}", "developers-reference-{}"),
            "debian-handbook",
        ),
        tags="de fr",
    ),
    _pairs("gimp-help", "gimp-help-en", tags="de fr"),
    _pairs("gnome-help", "gnome-user-docs"),
    _pairs(
        "programs",
        "",
        packages=(
            *(name for name in _BY_NAME["programs"].packages if not name.startswith("libreoffice-l10n")),
            "libreoffice-l10n-{}",
        ),
        tags="de fr",
        files=r"usr/.*/LC_MESSAGES/[^/]*\.mo$|usr/lib/libreoffice/.*\.mo$",
    ),
    _pairs("wesnoth", ""),
)
