"""Decides which whole groups of a source are held out, from the seed and the names alone."""

import hashlib
from collections import Counter, defaultdict

from .readers import Document
from .sources import MAX_SOURCE_BYTES, HoldOut

SPLITS = ("train", "validation", "test")
# Shorter lines (`return self`, `else:`) stand everywhere and say nothing about copying.
_TELLING_LINE = 20


class HoldOutError(ValueError):
    """The wanted groups cannot be held out of this source."""


def drop_repeated(documents: list[Document]) -> list[Document]:
    """Keeps the first of the documents that have equal text."""
    first: dict[str, Document] = {}
    for document in documents:
        first.setdefault(document.text, document)
    return list(first.values())


def assign_splits(source: str, documents: list[Document], rule: HoldOut, seed: int) -> dict[str, str]:
    """Returns the split of each group that is kept: group -> 'train', 'validation' or 'test'."""
    texts: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        texts[document.group].append(document.text)
    groups = {group: "".join(parts) for group, parts in texts.items()}
    sizes = {group: len(text.encode()) for group, text in groups.items()}
    order = sorted(groups, key=lambda group: hashlib.sha256(f"{seed}/{source}/{group}".encode()).hexdigest())

    splits = dict.fromkeys(groups, "train")
    shared = shared_lines(groups)
    low, high = rule.sizes
    candidates = [g for g in order if low <= sizes[g] <= high and shared[g] <= rule.max_shared]
    for split, wanted in (("test", rule.test), ("validation", rule.validation)):
        if isinstance(wanted, int):
            wanted_groups = [group for group in candidates if splits[group] == "train"][:wanted]
            if len(wanted_groups) < wanted:
                raise HoldOutError(
                    f"source {source!r}: {wanted} groups of {low} to {high} bytes wanted for {split}, "
                    f"{len(wanted_groups)} found; lower the number or widen `sizes` in training/data/sources.py"
                )
        else:
            wanted_groups = list(wanted)
        for group in wanted_groups:
            if group not in splits:
                raise HoldOutError(
                    f"source {source!r} has no group {group!r} to hold out for {split}; "
                    f"use one of its names in training/data/sources.py, such as {sorted(groups)[0]!r}"
                )
            splits[group] = split

    excess = sum(sizes.values()) - MAX_SOURCE_BYTES
    for group in order:
        if excess > 0 and splits[group] == "train":
            excess -= sizes[group]
            del splits[group]
    return splits


def shared_lines(groups: dict[str, str]) -> dict[str, float]:
    """Returns, per group, the share of its distinct lines (of 20 characters or more) that other groups have too."""
    lines = {
        group: {line.strip() for line in text.split("\n") if len(line.strip()) >= _TELLING_LINE}
        for group, text in groups.items()
    }
    counts = Counter(line for own in lines.values() for line in own)
    return {group: sum(counts[line] > 1 for line in own) / max(len(own), 1) for group, own in lines.items()}
