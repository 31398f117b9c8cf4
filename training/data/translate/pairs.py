"""Texts in two languages -> pairs of lines that say the same. Pure functions.

What pairs two texts is a message's id or a block's position in its page; rules on each pair then drop what went wrong.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..restore.languages import WORD, Language, is_native
from ..restore.lines import LARGEST, is_plain, near_key, normalized, sentences_of
from ..restore.splits import Line

LEAST_RATIO, MOST_RATIO = 0.5, 2.0  # of characters, translation over English
SLACK = 10  # characters that short lines may differ by beside that
MOST_FOREIGN = 0.5  # of an English line's words that its translation has too: names, not text left in English
NOTE = 3  # paragraphs that translators of manual pages add at the end: who they are, the licence, where to write
SHARE_PLAUSIBLE = 0.8  # of a page's pairs of blocks, or the page is not aligned
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class Pair(Line):
    """A line of another language and its English; see [`Line`]."""

    english: str

    @property
    def prompt(self) -> str:
        """What a model is given: the line and a newline."""
        return self.text + "\n"


def same_key(pair: Pair) -> tuple[tuple[str, ...], ...]:
    """What no two pairs of a split share: a line of one language, and an English line in that language's pairs."""
    return (
        (pair.language, "", near_key(pair.text)),
        (pair.language, "en", near_key(pair.english)),
    )


def shared_key(pair: Pair) -> tuple[str, str]:
    """What no two splits share: a line, in whatever language."""
    return near_key(pair.text), near_key(pair.english)


def page_pairs(foreign: Sequence[str], english: Sequence[str]) -> list[tuple[str, str]]:
    """The blocks of a page and of its English by position; none if they are not as many or too many disagree.

    A translators' note at the end is left out. Two blocks agree if their lengths and their numbers do. Blocks that are
    equal, left in English, say nothing.
    """
    if len(foreign) - len(english) not in (0, NOTE):
        return []
    blocks = zip(map(normalized, foreign), map(normalized, english), strict=False)
    pairs = [(one, other) for one, other in blocks if one != other]
    agreeing = sum(agree(one, other) for one, other in pairs)
    return pairs if agreeing >= SHARE_PLAUSIBLE * len(pairs) else []


def message_pairs(messages: Iterable[tuple[list[str], list[str]]]) -> Iterator[tuple[str, str]]:
    """Paragraphs of a catalogue's translations and messages.

    Of a message with a plural its singular goes with the first form, and its plural with the last.
    """
    for message, forms in messages:
        pairs = [(forms[0], message[0])]
        if len(message) == 2 and len(forms) > 1:
            pairs.append((forms[-1], message[1]))
        for translation, original in pairs:
            paragraphs, originals = translation.split("\n\n"), original.split("\n\n")
            if len(paragraphs) == len(originals):
                yield from zip(map(normalized, paragraphs), map(normalized, originals), strict=True)


def lines_of_pair(foreign: str, english: str, language: Language) -> Iterator[tuple[str, str]]:
    """A pair's usable lines: itself if both are short enough, else their sentences if they are as many."""
    pairs = [(foreign, english)]
    if max(len(foreign.encode()), len(english.encode())) > LARGEST:
        ours, theirs = sentences_of(foreign), sentences_of(english)
        pairs = list(zip(ours, theirs, strict=True)) if len(ours) == len(theirs) else []
    for one, other in pairs:
        if is_usable_pair(one, other, language):
            yield one, other


def is_usable_pair(foreign: str, english: str, language: Language) -> bool:
    """Whether both lines are plain, each in its language, and agree."""
    return (
        is_plain(foreign)
        and is_plain(english)
        and is_native(foreign, language)
        and not is_native(english, language)
        and agree(foreign, english)
        and share_left(foreign, english) <= MOST_FOREIGN
    )


def agree(foreign: str, english: str) -> bool:
    """Whether the lengths of two texts are those of translations, and their numbers are the same."""
    return LEAST_RATIO * len(english) - SLACK <= len(foreign) <= MOST_RATIO * len(english) + SLACK and sorted(
        _DIGITS.findall(foreign)
    ) == sorted(_DIGITS.findall(english))


def share_left(foreign: str, english: str) -> float:
    """The share of the English line's words that stand in the other line as they are."""
    words, others = WORD.findall(english.casefold()), set(WORD.findall(foreign.casefold()))
    return sum(word in others for word in words) / max(len(words), 1)
