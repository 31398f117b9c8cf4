"""Lines -> splits: whole documents held out, duplicates and near-duplicates out within and across splits."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from .lines import near_key

SPLITS = ("train", "validation", "test", "test_prose")
# A split keeps its line where an earlier one of this order lacks it: what is trained on is what no test has.
PRIORITY = ("test_prose", "test", "validation", "train")


@dataclass(frozen=True)
class Line:
    """A line and where it stands: `source`, `document` (its name in all languages) and `language` (a code)."""

    source: str
    document: str
    language: str
    license: str
    text: str


L = TypeVar("L", bound=Line)


@dataclass(frozen=True)
class Limits:
    """How much of each language is kept.

    Args:
        train_bytes: bytes of UTF-8 text for training.
        validation, test, test_prose: lines.
        held_out: share of documents held out for test, and half as many again for validation.
    """

    train_bytes: int = 4_000_000
    validation: int = 100
    test: int = 1000
    test_prose: int = 1000
    held_out: float = 0.03


def draw(seed: int, *names: str) -> float:
    """A number from 0 to 1 that is a function of seed and names alone."""
    digest = hashlib.sha256("\0".join((str(seed), *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def split_of(line: Line, prose: frozenset[str], limits: Limits, seed: int) -> str:
    """The split of a line's document; the same for its translations."""
    if line.source in prose:
        return "test_prose"
    place = draw(seed, line.source, line.document)
    if place < limits.held_out:
        return "test"
    return "validation" if place < 1.5 * limits.held_out else "train"


def text_key(line: Line) -> tuple[str]:
    """What is never twice in the data, in any language: a line without case, marks, digits and punctuation."""
    return (near_key(line.text),)


def assign(
    lines: Iterable[L],
    prose: frozenset[str],
    limits: Limits,
    seed: int,
    keys: Callable[[L], tuple[Hashable, ...]] = text_key,
    shared: Callable[[L], tuple[Hashable, ...]] | None = None,
) -> dict[str, list[L]]:
    """The lines of each split, at most `limits` of each language, in an order drawn by `seed`.

    Args:
        lines: each with what a [`Line`] has.
        prose: the sources of `test_prose`.
        keys: keys of a line; of the lines of a split that share one, one stays.
        shared: keys that no two splits may share, `keys` if None: a line stands in the first split of `PRIORITY` that
            has one of them.
    """
    shared = shared or keys
    candidates: dict[str, list[L]] = defaultdict(list)
    for line in lines:
        candidates[split_of(line, prose, limits, seed)].append(line)
    seen: set[Hashable] = set()
    result: dict[str, list[L]] = {}
    for split in PRIORITY:
        ordered = sorted(candidates[split], key=lambda line: (draw(seed, line.language, line.text), line.source))
        kept, amounts = [], defaultdict(int)
        limit = limits.train_bytes if split == "train" else getattr(limits, split)
        own: set[Hashable] = set()
        telling: set[Hashable] = set()
        for line in ordered:
            if not seen.isdisjoint(shared(line)) or not own.isdisjoint(keys(line)):
                continue
            own.update(keys(line))
            telling.update(shared(line))
            if amounts[line.language] < limit:
                amounts[line.language] += len(line.text.encode()) if split == "train" else 1
                kept.append(line)
        # Held-out lines beyond the limit still keep their likes out of training: their documents are held out.
        seen |= telling
        result[split] = kept
    return {split: result[split] for split in SPLITS}
