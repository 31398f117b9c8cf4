"""Documents -> packed rows of bytes, with patch starts found once by a frozen patcher."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, load_from_disk
from tqdm.auto import tqdm

from modeling_fblt.configuration_fblt import BOS_ID, BYTE_OFFSET, EOS_ID
from modeling_fblt.modeling_fblt import FBLTModel


def encode_document(text: str) -> np.ndarray:
    """`<s>`, the text's UTF-8 bytes, `</s>` as ids."""
    data = np.frombuffer(text.encode("utf-8"), dtype=np.uint8).astype(np.int16) + BYTE_OFFSET
    return np.concatenate([[BOS_ID], data, [EOS_ID]]).astype(np.int16)


def limit_sources(documents: Dataset, max_bytes: dict[str, int] | None, seed: int) -> Dataset:
    """Shuffles documents and keeps whole ones of each source up to `max_bytes[source]` (no limit if unnamed)."""
    max_bytes = max_bytes or {}
    documents = documents.shuffle(seed=seed)
    unknown = set(max_bytes) - set(documents.unique("source"))
    if unknown:
        raise ValueError(
            f"`max_bytes` names {sorted(unknown)}, which are no sources of the data: {documents.unique('source')}."
        )
    taken: dict[str, int] = {}
    keep = []
    for index, (source, text) in enumerate(zip(documents["source"], documents["text"], strict=True)):
        if taken.get(source, 0) < max_bytes.get(source, float("inf")):
            taken[source] = taken.get(source, 0) + len(text.encode("utf-8"))
            keep.append(index)
    return documents.select(keep)


def pack(texts: Iterable[str], length: int) -> np.ndarray:
    """Documents end to end, cut into rows: `[rows, length]` int16; an incomplete last row is dropped."""
    stream = np.concatenate([encode_document(text) for text in texts])
    rows = len(stream) // length
    if rows == 0:
        raise ValueError(f"The documents hold {len(stream)} ids, less than one row of `sequence_length` {length}.")
    return stream[: rows * length].reshape(rows, length)


@torch.inference_mode()
def find_patch_starts(model: FBLTModel, rows: np.ndarray, batch_size: int = 32) -> np.ndarray:
    """Patch starts of packed rows, `[rows, length + 1]` booleans, as the model itself would find them."""
    found = np.empty((rows.shape[0], rows.shape[1] + 1), dtype=bool)
    for first in tqdm(range(0, len(rows), batch_size), desc="patching", unit="batch"):
        ids = torch.from_numpy(rows[first : first + batch_size].astype(np.int64)).to(model.device)
        found[first : first + batch_size] = model.patch(ids).patch_starts.cpu().numpy()
    return found


def packed_dataset(
    data: str | Path, split: str, length: int, model: FBLTModel, max_bytes: dict[str, int] | None, seed: int
) -> Dataset:
    """Rows of `input_ids` `[length]` and `patch_starts` `[length + 1]` from a prepared data folder."""
    if not Path(data).is_dir():
        raise FileNotFoundError(
            f"`data` {str(data)!r} is no folder: make it with `python -m training.prepare_data --output {data}`."
        )
    documents = limit_sources(load_from_disk(str(data))[split], max_bytes, seed)
    rows = pack(documents["text"], length)
    return Dataset.from_dict({"input_ids": rows, "patch_starts": find_patch_starts(model, rows)}).with_format("torch")


def collate(examples: list[dict]) -> dict[str, torch.Tensor]:
    """A training batch; labels are the bytes themselves."""
    ids = torch.stack([example["input_ids"] for example in examples]).long()
    batch = {"input_ids": ids, "labels": ids}
    if "patch_starts" in examples[0]:
        batch["patch_starts"] = torch.stack([example["patch_starts"] for example in examples]).bool()
    return batch
