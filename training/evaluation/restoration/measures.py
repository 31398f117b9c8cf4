"""What restored lines are worth: words and lines right, characters wrong, standard errors over lines. Pure functions.

A word is what stands between blanks, punctuation included. Where a restored line has as many words as the line, they
are compared place by place; where it has not, by the longest common runs of words (`difflib`), so that one word split
in two costs that word alone.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np


def right_words(line: str, restored: str) -> list[bool]:
    """For each word of `line`, whether `restored` has it in its place."""
    wanted, found = line.split(), restored.split()
    if len(wanted) == len(found):
        return [one == other for one, other in zip(wanted, found, strict=True)]
    right = [False] * len(wanted)
    for run in SequenceMatcher(None, wanted, found, autojunk=False).get_matching_blocks():
        right[run.a : run.a + run.size] = [True] * run.size
    return right


def edit_distance(one: str, other: str) -> int:
    """Fewest insertions, deletions and replacements of characters that turn one text into the other.

    A column of the usual table at a time, its differences held in the bits of two whole numbers (Myers, 1999).
    """
    if not one:
        return len(other)
    places: dict[str, int] = {}
    for index, character in enumerate(one):
        places[character] = places.get(character, 0) | 1 << index
    every, last = (1 << len(one)) - 1, 1 << (len(one) - 1)
    more, less, distance = every, 0, len(one)  # where a cell is one more, or one less, than the cell above it
    for character in other:
        equal = places.get(character, 0)
        vertical = equal | less
        horizontal = (((equal & more) + more) ^ more) | equal
        right_more = less | (every & ~(horizontal | more))
        right_less = more & horizontal
        distance += (right_more & last > 0) - (right_less & last > 0)
        right_more = (right_more << 1 | 1) & every
        right_less = (right_less << 1) & every
        more = right_less | (every & ~(vertical | right_more))
        less = right_more & vertical
    return distance


def ratio(parts: Sequence[float], wholes: Sequence[float]) -> dict[str, float | int | None]:
    """The sum of `parts` over the sum of `wholes`, one of each per line, with its standard error over lines.

    The error is that of a ratio of two means: lines count by their length, and vary in it.
    """
    part, whole = np.asarray(parts, dtype=float), np.asarray(wholes, dtype=float)
    if whole.sum() == 0:
        return {"value": None, "standard_error": None, "of": 0}
    value = part.sum() / whole.sum()
    lines = len(part)
    error = None
    if lines > 1:
        error = float(np.sqrt(((part - value * whole) ** 2).sum() * lines / (lines - 1)) / whole.sum())
    return {"value": float(value), "standard_error": error, "of": int(whole.sum())}


def figures(lines: Sequence[str], restored: Sequence[str], telling: Sequence[Sequence[bool]] | None = None) -> dict:
    """Words and lines right and the character error rate; with `telling`, a mark for each word, also of marked words.

    Each is a dict of `value`, `standard_error` over lines and `of`, the words, lines or characters it is a share of.
    """
    rights = [right_words(line, other) for line, other in zip(lines, restored, strict=True)]
    found = {
        "words_right": ratio([sum(right) for right in rights], [len(right) for right in rights]),
        "lines_right": ratio([line == other for line, other in zip(lines, restored, strict=True)], [1] * len(lines)),
        "character_errors": ratio(
            [edit_distance(line, other) for line, other in zip(lines, restored, strict=True)],
            [len(line) for line in lines],
        ),
    }
    if telling is not None:
        marked = [
            [right for right, mark in zip(*pair, strict=True) if mark] for pair in zip(rights, telling, strict=True)
        ]
        found["ambiguous_words_right"] = ratio([sum(right) for right in marked], [len(right) for right in marked])
    return found
