"""Documents -> packed rows of bytes, with patch starts found once by a frozen patcher."""

from collections.abc import Iterable

import numpy as np
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from modeling_fblt.block_loss_fblt import IGNORED
from modeling_fblt.configuration_fblt import BOS_ID, BYTE_OFFSET, EOS_ID, PAD_ID
from modeling_fblt.modeling_fblt import FBLTModel


def encode_document(text: str) -> np.ndarray:
    """`<s>`, the text's UTF-8 bytes, `</s>` as ids."""
    data = np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int16) + BYTE_OFFSET
    return np.concatenate([[BOS_ID], data, [EOS_ID]]).astype(np.int16)


def limit_sources(documents: Dataset, max_bytes: dict[str, int] | None, seed: int) -> Dataset:
    """Shuffles documents and keeps whole ones of each source up to `max_bytes[source]` (no limit if unnamed)."""
    max_bytes = max_bytes or {}
    documents = documents.shuffle(seed=seed)
    names = documents.unique("source")
    unknown = set(max_bytes) - set(names)
    if unknown:
        raise ValueError(f"`max_bytes` names {sorted(unknown)}, which are no sources of the data: {names}.")
    sources = np.array([names.index(source) for source in documents["source"]])
    sizes = np.array([len(text.encode("utf-8")) for text in documents["text"]])
    limits = [max_bytes.get(name) for name in names]
    return documents.select(np.flatnonzero(within_limits(sources, sizes, limits)))


def within_limits(sources: np.ndarray, sizes: np.ndarray, limits: list[int | None]) -> np.ndarray:
    """Which documents to keep, in this order: of each source, until those before reach its limit of bytes.

    Args:
        sources, sizes: `[documents]`, each one's source, an index into `limits`, and its bytes.
        limits: by source; None for no limit.

    Returns:
        `[documents]` booleans.
    """
    keep = np.ones(len(sizes), dtype=bool)
    for source, limit in enumerate(limits):
        if limit is not None:
            own = np.flatnonzero(sources == source)
            keep[own] = np.cumsum(sizes[own]) - sizes[own] < limit
    return keep


def pack(texts: Iterable[str], length: int) -> np.ndarray:
    """Documents end to end, cut into rows: `[rows, length]` int16; an incomplete last row is dropped."""
    stream = np.concatenate([encode_document(text) for text in texts])
    rows = len(stream) // length
    if rows == 0:
        raise ValueError(f"The documents hold {len(stream)} ids, less than one row of `sequence_length` {length}.")
    return stream[: rows * length].reshape(rows, length)


@torch.inference_mode()
def find_patch_starts(model: FBLTModel, rows: np.ndarray, batch_size: int = 32, progress: bool = True) -> np.ndarray:
    """Patch starts of packed rows, `[rows, length + 1]` booleans, as the model itself would find them."""
    found = np.empty((rows.shape[0], rows.shape[1] + 1), dtype=bool)
    device = device_of(model)
    for first in tqdm(range(0, len(rows), batch_size), desc="patching", unit="batch", disable=not progress):
        ids = torch.from_numpy(rows[first : first + batch_size].astype(np.int64)).to(device)
        found[first : first + batch_size] = model.patch(ids).patch_starts.cpu().numpy()
    return found


@torch.inference_mode()
def find_ragged_patch_starts(
    model: FBLTModel, rows: list[np.ndarray], batch_size: int = 32, progress: bool = True
) -> list[np.ndarray]:
    """As [`find_patch_starts`] for rows of different lengths: `[length + 1]` booleans for each."""
    found = []
    device = device_of(model)
    for first in tqdm(range(0, len(rows), batch_size), desc="patching", unit="batch", disable=not progress):
        part = [torch.from_numpy(row.astype(np.int64)) for row in rows[first : first + batch_size]]
        lengths = torch.tensor([len(row) for row in part])
        ids = pad_sequence(part, batch_first=True, padding_value=PAD_ID)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        starts = model.patch(ids.to(device), mask.to(device)).patch_starts.cpu().numpy()
        found += [row[: length + 1] for row, length in zip(starts, lengths.tolist(), strict=True)]
    return found


def device_of(model: FBLTModel) -> torch.device:
    """Where a model's weights are; the CPU for one that has none, see `packing.patching`."""
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))


def collate(examples: list[dict]) -> dict[str, torch.Tensor]:
    """A training batch. Labels are the bytes themselves where the rows bring none.

    Rows that bring labels may differ in length; they are padded on the right, without loss there.
    """
    columns = {name: [example[name] for example in examples] for name in examples[0]}
    if "labels" not in columns:
        ids = torch.stack(columns["input_ids"]).long()
        batch = {"input_ids": ids, "labels": ids}
    else:
        lengths = torch.tensor([len(ids) for ids in columns["input_ids"]])
        batch = {
            "input_ids": pad_sequence(columns["input_ids"], batch_first=True, padding_value=PAD_ID).long(),
            "labels": pad_sequence(columns["labels"], batch_first=True, padding_value=IGNORED).long(),
            "attention_mask": (torch.arange(lengths.max()) < lengths[:, None]).long(),
        }
    if "patch_starts" in columns:
        batch["patch_starts"] = pad_sequence(columns["patch_starts"], batch_first=True).bool()
    return batch
