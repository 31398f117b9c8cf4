"""Which documents a split holds, in which order, and which of them each shard of rows is made of."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, concatenate_datasets

from ..data.inputs import LONG_STRING, Opened, Source, texts_only
from .sequences import within_limits

SHARD_BYTES = 2**21  # of rows, what a worker does at a time and the most that it loses
MOST_SHARDS = 1000  # of a split: more text makes larger shards


@dataclass
class Corpus:
    """All documents of all sources.

    Attributes:
        documents: memory-mapped.
        columns: those of text: `text`, or `prompt` and `completion`.
        names: of the sources.
        sources: `[documents]`, indices into `names`.
        sizes: `[documents, columns]`, bytes of UTF-8.
        splits: by split, indices `[documents of the split]` in the order in which they are packed.
    """

    documents: Dataset
    columns: list[str]
    names: list[str]
    sources: np.ndarray
    sizes: np.ndarray
    splits: dict[str, np.ndarray]

    def ids(self, documents: np.ndarray) -> np.ndarray:
        """Ids that each of these documents takes: its bytes, `<s>` and `</s>`."""
        return self.sizes[documents].sum(1) + 2


@dataclass(frozen=True)
class Shard:
    """Rows to make.

    Attributes:
        split: the split they belong to.
        number: of the shard within its split.
        documents: indices, in order.
        skip: ids of the first document that belong to rows of the shard before.
        rows: how many.
    """

    split: str
    number: int
    documents: np.ndarray
    skip: int
    rows: int

    def folder(self, work: Path) -> Path:
        return work / "rows" / self.split / f"{self.number:05}"


def build_corpus(
    opened: list[Opened],
    columns: list[str],
    max_bytes: dict[str, int],
    hold_out: float | None,
    seed: int,
    work: Path,
) -> Corpus:
    """Puts sources end to end, shuffles each split's documents, cuts `train` to its limits and holds some out.

    Args:
        max_bytes: limits of the train split by source.
        hold_out: share of a source's documents that becomes its validation split if it brings none.

    Raises:
        ValueError: a text is missing, or no source has validation text.
    """
    names = list(dict.fromkeys(name for found in opened for name in found.source.part_names))
    parts = [(found, split, documents) for found in opened for split, documents in found.splits.items()]
    features = [documents.features[column] for *_, documents in parts for column in columns]
    kind = features[0] if all(feature == features[0] for feature in features) else LONG_STRING
    texts, sources, sizes, members = [], [], [], {}
    begin = 0
    for i, (found, split, documents) in enumerate(parts):
        sizes.append(measure(documents, columns, found.source, split))
        sources.append(source_indices(documents, found, names))
        texts.append(texts_only(documents, columns, kind, work / "cast" / f"{i}.arrow"))
        members.setdefault(split, []).append(np.arange(begin, begin + len(documents)))
        begin += len(documents)
    corpus = Corpus(
        concatenate_datasets(texts), columns, names, np.concatenate(sources), np.concatenate(sizes), splits={}
    )
    for split, indices in members.items():
        indices = np.concatenate(indices)
        order = indices[np.random.default_rng(seed).permutation(len(indices))]  # as `Dataset.shuffle` does
        if split == "train":
            limits = [max_bytes.get(name) for name in names]
            order = order[within_limits(corpus.sources[order], corpus.sizes[order].sum(1), limits)]
        corpus.splits[split] = order
    _hold_out(corpus, opened, hold_out)
    return corpus


def _hold_out(corpus: Corpus, opened: list[Opened], share: float | None) -> None:
    """Moves the last documents of each source without validation text from `train` to `validation`."""
    if share:
        bring_none = [found.source for found in opened if "validation" not in found.splits]
        names = [name for source in bring_none for name in source.part_names]
        train = corpus.splits["train"]
        held = np.zeros(len(train), dtype=bool)
        for name in names:
            own = np.flatnonzero(corpus.sources[train] == corpus.names.index(name))
            held[own[len(own) - int(np.ceil(share * len(own))) :]] = True
        corpus.splits["train"] = train[~held]
        validation = corpus.splits.get("validation", train[:0])
        corpus.splits["validation"] = np.concatenate([validation, train[held]])
    if share is None and "validation" not in corpus.splits:
        raise ValueError(
            "`--hold-out` is missing: no source has a validation split. Give the share of documents that becomes one, "
            "such as 0.01, or 0 to go without."
        )


def measure(documents: Dataset, columns: list[str], source: Source, split: str) -> np.ndarray:
    """Bytes of UTF-8 of each document `[documents, columns]`."""
    sizes = [np.zeros((0, len(columns)), dtype=np.int64)]
    for table in documents.select_columns(columns).with_format("arrow").iter(10_000):
        for column in columns:
            if table[column].null_count:
                row = sum(map(len, sizes)) + pc.index(table[column].is_null(), True).as_py()
                raise ValueError(f"{source}: row {row} of split {split!r} has no {column!r}: leave it out.")
        sizes.append(np.stack([pc.binary_length(table[column]).to_numpy() for column in columns], axis=1))
    return np.concatenate(sizes).astype(np.int64)


def source_indices(documents: Dataset, found: Opened, names: list[str]) -> np.ndarray:
    """Which of `names` each document's source is, `[documents]`.

    Raises:
        ValueError: a row's source is not in the manifest.
    """
    if found.source.parts is None:
        return np.full(len(documents), names.index(found.source.name))
    unknown = set(documents.unique("source")) - set(found.source.parts)
    if unknown:
        raise ValueError(f"{found.source} has rows of {sorted(unknown)}, not in its manifest.")
    indices = [np.zeros(0, dtype=np.int64)]
    for table in documents.select_columns(["source"]).with_format("arrow").iter(10_000):
        values = table["source"].combine_chunks()
        indices.append(pc.index_in(values, value_set=pc.cast(names, values.type)).to_numpy(zero_copy_only=False))
    return np.concatenate(indices)


def plan_shards(
    corpus: Corpus, length: int, batch_size: int, shard_bytes: int = SHARD_BYTES
) -> tuple[list[Shard], dict[str, int]]:
    """All shards of rows, and how many ids of each split are left over.

    Documents fill rows end to end; what does not fill a last row is left over. Instructions take a row each.

    Raises:
        ValueError: a split has no row, or a prompt leaves no room for its completion.
    """
    shards: list[Shard] = []
    left_over = {}
    for split, order in corpus.splits.items():
        ids = corpus.ids(order)
        size = max(shard_bytes, -(-int(ids.sum()) // MOST_SHARDS))
        # Whole batches: then the patcher is called on the rows it would be called on without shards.
        step = -(-size // (length * batch_size)) * batch_size
        if len(corpus.columns) == 1:
            made = list(_cut(split, order, ids, length, step))
            left_over[split] = int(ids.sum()) - length * sum(shard.rows for shard in made)
        else:
            _check_room(corpus, order, length)
            parts = (order[first : first + step] for first in range(0, len(order), step))
            made = [Shard(split, number, part, 0, len(part)) for number, part in enumerate(parts)]
            left_over[split] = int((ids - length).clip(min=0).sum())
        if not made:
            raise ValueError(
                f"The documents of split {split!r} hold {int(ids.sum())} ids, less than one row of `--sequence-length` "
                f"{length}: give less, or more text."
            )
        shards += made
    return shards, left_over


def _cut(split: str, order: np.ndarray, ids: np.ndarray, length: int, step: int) -> Iterable[Shard]:
    ends = np.cumsum(ids)
    rows = int(ids.sum()) // length
    for number, first in enumerate(range(0, rows, step)):
        last = min(first + step, rows)
        begin = int(np.searchsorted(ends, first * length, side="right"))
        end = int(np.searchsorted(ends, last * length, side="left")) + 1
        skip = first * length - int(ends[begin] - ids[begin])
        yield Shard(split, number, order[begin:end], skip, last - first)


def _check_room(corpus: Corpus, order: np.ndarray, length: int) -> None:
    prompts = corpus.sizes[order, 0]
    too_long = prompts + 1 >= length  # `<s>` and the prompt
    if too_long.any():
        raise ValueError(
            f"`--sequence-length` {length} holds nothing of the completions of {int(too_long.sum())} examples, whose "
            f"prompts have up to {int(prompts.max())} bytes: give more, or leave these examples out."
        )
