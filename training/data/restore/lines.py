"""Blocks of text -> lines fit for the data set, and the key by which near-duplicates are told."""

import re
import unicodedata
from collections.abc import Iterator

from .damage import strip_marks
from .languages import WORD, Language, is_native

SMALLEST, LARGEST = 20, 200  # bytes
PLAIN = frozenset(" .,;:!?()\"'-–—/…«»„“”’‘¿¡")
PLAIN_SHARE = 0.9
FEWEST_WORDS = 3
# Signs of markup, formats, commands and accelerators: such lines are no plain text.
_FORBIDDEN = re.compile(r"[\\<>{}|=~^*#\[\]_%$@&+`\x00-\x1f\x7f-\x9f\ufffd•→←]")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"”»’)]*\s+(?=[\"„“«(¿¡]*[^\W\d_a-z])")
_BLANKS = re.compile(r"\s+")
# The Romanian letters with a cedilla are an old encoding of those with a comma below.
_ROMANIAN = str.maketrans("şţŞŢ", "șțȘȚ")


def lines_of(block: str, language: Language) -> Iterator[str]:
    """A block's usable lines: itself if it is short enough, else its sentences."""
    text = normalized(block)
    if language.code == "ro":
        text = text.translate(_ROMANIAN)
    for line in [text] if len(text.encode()) <= LARGEST else sentences_of(text):
        if is_usable(line, language):
            yield line


def normalized(block: str) -> str:
    """A block in NFC, without soft hyphens, each run of blanks one blank."""
    return _BLANKS.sub(" ", unicodedata.normalize("NFC", block.replace("\u00ad", ""))).strip()


def sentences_of(text: str) -> list[str]:
    """The sentences of a normalised block."""
    return [sentence.strip() for sentence in _SENTENCE_END.split(text)]


def is_usable(line: str, language: Language) -> bool:
    """Whether a line is plain and in its own language."""
    return is_plain(line) and is_native(line, language)


def is_plain(line: str) -> bool:
    """Whether a line has the right size, plain text of Latin letters, and words enough."""
    return (
        SMALLEST <= len(line.encode()) <= LARGEST
        and not _FORBIDDEN.search(line)
        and sum(character.isalpha() or character in PLAIN for character in line) >= PLAIN_SHARE * len(line)
        and len(WORD.findall(line)) >= FEWEST_WORDS
        and is_latin(line)
    )


def is_latin(line: str) -> bool:
    """Whether all letters are Latin ones: those of the blocks up to U+024F and U+1E00 to U+1EFF."""
    return all(not c.isalpha() or c < "\u0250" or "\u1e00" <= c <= "\u1eff" for c in line)


def near_key(line: str) -> str:
    """What is left of a line without case, marks, digits, punctuation and blanks: near-duplicates have one key."""
    return "".join(WORD.findall(strip_marks(line).casefold()))
