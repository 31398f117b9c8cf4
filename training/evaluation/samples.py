"""Held-out text for evaluation: documents, rows that count every byte once, random anchors, prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from datasets import Dataset

from modeling_fblt.configuration_fblt import BOS_ID, PAD_ID

from ..data.inputs import column_names, data_source, open_source
from ..packing.instructions import COLUMNS
from ..packing.sequences import encode_document, limit_sources
from .measures import in_proportion


@dataclass(frozen=True)
class EncodedDocument:
    """A held-out document: `<s>`, its bytes and `</s>` as ids `[length + 2]`."""

    source: str
    ids: np.ndarray


@dataclass(frozen=True)
class Row:
    """Part of a document, to be one row of a batch: `targets[i]` is the id after `ids[i]`; both `[n]`."""

    source: str
    ids: np.ndarray
    targets: np.ndarray


@dataclass(frozen=True)
class Anchor:
    """Where a block is drafted: the bytes before it, the carried byte, and the real bytes that follow.

    Attributes:
        context: `[n]`, ids fed before the carried one; `<s>` among them if the document begins there.
        real: `[r]`, the bytes to be drafted.
    """

    source: str
    context: np.ndarray
    carried: int
    real: np.ndarray


@dataclass(frozen=True)
class Prompt:
    """`ids` `[1 + prompt bytes]`, `<s>` in front, and the text that really follows, `[following bytes]`."""

    source: str
    ids: np.ndarray
    reference: np.ndarray


def load_split(data: str | Path, split: str | None = None) -> tuple[Dataset, str]:
    """The documents of one split, as columns `text` and `source`, and the split's name.

    Args:
        data: whatever `fblt train` reads: files of text, folders, JSONL, saved `datasets` folders. A prompt and its
            completion are one document.
        split: None for `test` if there is one, or for the only split of data that has no more.

    Raises:
        ValueError: no such data or split, or documents without text; the message says what there is.
    """
    source = data_source(data, "--data")
    with TemporaryDirectory() as scratch:
        instructions = set(COLUMNS) <= set(column_names(source, Path(scratch)))
        columns = COLUMNS if instructions else ("text",)
        splits = open_source(source, {name: name for name in columns}, None, Path(scratch)).splits
        if split is None:
            split = next(iter(splits)) if len(splits) == 1 else "test"
        if split not in splits:
            raise ValueError(f"--split {split}: the data has {', '.join(splits)}; give one of these.")
        parts = [splits[split][name][:] for name in columns]
        sources = splits[split]["source"][:] if source.parts else [source.name] * len(parts[0])
    for name, texts in zip(columns, parts, strict=True):
        if None in texts:
            raise ValueError(f"{source}: row {texts.index(None)} of split {split!r} has no {name!r}: leave it out.")
    texts = ["".join(row) for row in zip(*parts, strict=True)]
    return Dataset.from_dict({"text": texts, "source": sources}), split


def encode(dataset: Dataset) -> list[EncodedDocument]:
    """Every document of a split, encoded by itself."""
    pairs = zip(dataset["source"], dataset["text"], strict=True)
    return [EncodedDocument(source, encode_document(text).astype(np.int64)) for source, text in pairs]


def limit(dataset: Dataset, max_bytes: int, seed: int) -> Dataset:
    """Whole documents drawn at random, each source up to its proportional share of `max_bytes`, at least one each."""
    sizes: dict[str, int] = {}
    for source, text in zip(dataset["source"], dataset["text"], strict=True):
        sizes[source] = sizes.get(source, 0) + len(text.encode("utf-8"))
    if sum(sizes.values()) <= max_bytes:
        return dataset
    return limit_sources(dataset, {name: max(1, part) for name, part in in_proportion(max_bytes, sizes).items()}, seed)


def cut_rows(documents: Sequence[EncodedDocument], length: int) -> list[Row]:
    """Cuts documents into rows of up to `length` ids that together have each id but `<s>` as a target once.

    Only a document's first row begins with `<s>`; the others begin in the middle of the text, as training rows do.
    """
    rows = []
    for document in documents:
        for first in range(0, len(document.ids) - 1, length):
            ids = document.ids[first : first + length + 1]
            rows.append(Row(document.source, ids[:-1], ids[1:]))
    return rows


def right_padded(rows: Sequence[np.ndarray], device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids as one batch: ids `[batch, longest]` and lengths `[batch]`."""
    lengths = torch.tensor([len(row) for row in rows], device=device)
    batch = np.full((len(rows), int(lengths.max())), PAD_ID, dtype=np.int64)
    for index, row in enumerate(rows):
        batch[index, : len(row)] = row
    return torch.from_numpy(batch).to(device), lengths


def _positions(documents: Sequence[EncodedDocument], before: int, after: int) -> dict[str, np.ndarray]:
    """Per source, `[count, 2]` pairs of document and position with so many ids before it and bytes after it."""
    found: dict[str, list[np.ndarray]] = {}
    for index, document in enumerate(documents):
        # The last id is `</s>`, which is no byte to be drafted.
        position = np.arange(before, len(document.ids) - 1 - after)
        found.setdefault(document.source, []).append(np.stack([np.full_like(position, index), position], axis=1))
    return {source: np.concatenate(found[source]) for source in sorted(found)}


def draw_anchors(
    documents: Sequence[EncodedDocument], count: int, drafted: int, context: int, seed: int, before: int = 64
) -> list[Anchor]:
    """`count` different anchors, uniform over byte positions; sources take part in proportion to their positions.

    Args:
        drafted: real bytes that must follow the carried one in its document.
        context: ids kept before an anchor, at most.
        before: ids that must stand before it, `<s>` included.

    Raises:
        ValueError: the documents have fewer such positions.
    """
    positions = _positions(documents, before, drafted)
    available = {source: len(found) for source, found in positions.items() if len(found)}
    if count > sum(available.values()):
        raise ValueError(
            f"--anchors {count}: the held-out documents have {sum(available.values())} positions for anchors"
        )
    generator = np.random.default_rng(seed)
    anchors = []
    for source, wanted in in_proportion(count, available).items():
        for index in generator.choice(available[source], wanted, replace=False):
            document, position = positions[source][index]
            ids = documents[document].ids
            anchors.append(
                Anchor(
                    source=source,
                    context=ids[max(0, position - context) : position],
                    carried=int(ids[position]),
                    real=ids[position + 1 : position + 1 + drafted],
                )
            )
    return anchors


def draw_prompts(
    documents: Sequence[EncodedDocument], count: int, length: int, following: int, seed: int
) -> list[Prompt]:
    """Prompts of `length` bytes with `following` real bytes after them, one source after the other.

    Raises:
        ValueError: a source has no document that long.
    """
    positions = _positions(documents, 1, length + following - 1)
    for source, found in positions.items():
        if len(found) == 0:
            raise ValueError(
                f"--free-bytes {following}: no held-out document of {source} has {length + following} bytes"
            )
    generator = np.random.default_rng(seed)
    sources = list(positions)
    prompts = []
    for turn in range(count):
        source = sources[turn % len(sources)]
        document, first = positions[source][generator.integers(len(positions[source]))]
        text = documents[document].ids[first : first + length + following]
        prompts.append(Prompt(source, np.concatenate([[BOS_ID], text[:length]]), text[length:]))
    return prompts
