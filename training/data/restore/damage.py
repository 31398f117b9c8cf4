"""Damage to a line: marks, case, punctuation and typing errors, from a random generator that the caller seeds.

`none`: as it was. `accents`: letters lose their marks. `plain`: also lower case, without punctuation. `typos`: also
typing errors, at a rate drawn for each line.
"""

import re
import unicodedata
from collections.abc import Mapping

import numpy as np

KINDS = ("accents", "plain", "typos", "none")
HIGHEST_TYPO_RATE = 0.06  # of letters

# Letters whose mark is part of them for Unicode, written as people without the key write them.
_LETTERS = {
    "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "ø": "o", "Ø": "O", "ħ": "h", "Ħ": "H", "ı": "i",
    "ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "þ": "th", "Þ": "Th",
}  # fmt: skip
_LETTER_TABLE = str.maketrans(_LETTERS)
PUNCTUATION = '.,;:!?()"„“”«»‹›…‚¿¡'
# Within a word or number (`3.5`, `index.html`, `12:30`) a sign is part of it and stays.
_REMOVED = re.compile(rf"(?<!\w)[{re.escape(PUNCTUATION)}]+|[{re.escape(PUNCTUATION)}]+(?!\w)|(?<!\w)[-–—]+(?!\w)")
_BLANKS = re.compile(r"\s+")
_KEY_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbours() -> dict[str, str]:
    """Keys beside a key: in its row, and the two nearest above and below."""
    places = {key: (row, column + 0.5 * row) for row, keys in enumerate(_KEY_ROWS) for column, key in enumerate(keys)}
    return {
        key: "".join(
            other
            for other, (row, column) in places.items()
            if other != key and abs(row - own_row) <= 1 and abs(column - own_column) <= 1.0
        )
        for key, (own_row, own_column) in places.items()
    }


NEIGHBOURS = _neighbours()


def strip_marks(line: str) -> str:
    """The line without accents and other marks of letters: `é` to `e`, `ł` to `l`, `ı` to `i`, `ß` to `ss`."""
    decomposed = unicodedata.normalize("NFD", line.translate(_LETTER_TABLE))
    kept = "".join(character for character in decomposed if not unicodedata.combining(character))
    return unicodedata.normalize("NFC", kept)


def make_plain(line: str) -> str:
    """The line without marks, in lower case, with plain apostrophes and without punctuation."""
    text = strip_marks(line).lower().replace("’", "'").replace("‘", "'")
    return _BLANKS.sub(" ", _REMOVED.sub(" ", text)).strip()


def add_typos(line: str, rate: float, generator: np.random.Generator) -> str:
    """The line with typing errors: each letter, with probability `rate`, is doubled, dropped, swapped with the next
    letter, or replaced by a key beside it. A letter that was swapped forward is not touched again."""
    draws = generator.random(len(line))
    result: list[str] = []
    position = 0
    while position < len(line):
        letter = line[position]
        following = line[position + 1 : position + 2]
        position += 1
        if not letter.isalpha() or draws[position - 1] >= rate:
            result.append(letter)
            continue
        error = generator.integers(4)
        if error == 0:
            result += [letter, letter]
        elif error == 2 and following.isalpha():
            result += [following, letter]
            position += 1
        elif error >= 2:
            beside = NEIGHBOURS.get(letter.lower(), "")
            result.append(beside[generator.integers(len(beside))] if beside else letter)
    return "".join(result)


def damage(line: str, kind: str, generator: np.random.Generator, typo_rate: float | None = None) -> str:
    """The line with one kind of damage; `typo_rate` is drawn from 0 to `HIGHEST_TYPO_RATE` when None.

    Raises:
        ValueError: `kind` is none of `KINDS`.
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` is {kind!r}: choose one of {KINDS}.")
    if kind == "none":
        return line
    if kind == "accents":
        return strip_marks(line)
    plain = make_plain(line)
    if kind == "plain":
        return plain
    rate = generator.uniform(0.0, HIGHEST_TYPO_RATE) if typo_rate is None else typo_rate
    return add_typos(plain, rate, generator)


def draw_damage(line: str, shares: Mapping[str, float], seed: tuple[int, ...]) -> str:
    """The line with damage of a kind drawn by `shares`: a function of line, shares and `seed` alone."""
    generator = np.random.default_rng(seed)
    kinds = list(shares)
    limits = np.cumsum([shares[kind] for kind in kinds])
    drawn = int(np.searchsorted(limits, generator.random() * limits[-1], side="right"))
    return damage(line, kinds[drawn], generator)


def check_shares(shares: object, name: str) -> None:
    """Checks the shares of kinds of damage, `name` in a message.

    Raises:
        ValueError: unknown kinds, negative shares, or shares that do not add up to 1.
    """
    remedy = f"give a share for each of {KINDS}, adding up to 1"
    if not isinstance(shares, Mapping) or not shares:
        raise ValueError(f"`{name}` is {shares!r}: {remedy}.")
    if unknown := sorted(set(shares) - set(KINDS)):
        raise ValueError(f"`{name}` has unknown kinds {unknown}: {remedy}.")
    values = list(shares.values())
    if (
        any(isinstance(v, bool) or not isinstance(v, int | float) or v < 0 for v in values)
        or abs(sum(values) - 1) > 1e-6
    ):
        raise ValueError(f"`{name}` is {dict(shares)}: {remedy}.")
