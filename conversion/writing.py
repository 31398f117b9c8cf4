# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Writing checkpoints tensor by tensor."""

import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from tqdm import tqdm

from .tensor_readers import FLOATS, INDEX, SAFETENSORS
from .weight_names import Shape

_NAMES = {dtype: name for name, dtype in FLOATS.items()}
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SLICE = 1 << 22  # elements that are converted, checked and written at a time


class WritingError(ValueError):
    """A checkpoint that is not written; the message says why."""


@dataclass
class Entry:
    """A tensor to write.

    Attributes:
        key, shape, dtype: as written.
        parts: gives the tensors that, end to end, are it.
    """

    key: str
    shape: Shape
    dtype: torch.dtype
    parts: Callable[[], Iterable[torch.Tensor]]

    @property
    def size(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def check_type(self) -> None:
        """Refuses, before anything is written, a type that this module does not write."""
        if self.dtype not in _NAMES:
            raise WritingError(f"{self.key}: cannot be written as {self.dtype}; expected one of {list(_NAMES)}")

    def slices(self) -> Iterator[torch.Tensor]:
        """The values in order, flat, converted and checked.

        Raises:
            WritingError: the type is no plain float, or a value is not finite or not in `dtype`.
        """
        self.check_type()
        for part in self.parts():
            for values in part.contiguous().flatten().split(_SLICE):
                converted = values.to(self.dtype)
                if not torch.isfinite(converted).all():
                    why = "holds NaN or infinity" if not torch.isfinite(values).all() else f"overflows {self.dtype}"
                    raise WritingError(f"{self.key}: {why}")
                yield converted


def parse_size(text: str) -> int:
    """`"5GB"` -> bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]i?B)?", text.strip(), re.IGNORECASE)
    size = int(float(found[1]) * _UNITS[(found[2] or "").upper()]) if found else 0
    if size <= 0:
        raise WritingError(f"--max-shard-size {text!r}: give a size such as 5GB or 500MiB")
    return size


def write_safetensors(folder: Path, entries: list[Entry], max_shard_size: int, progress: bool = True) -> int:
    """Writes `model.safetensors`, or shards of at most `max_shard_size` bytes (or one tensor) and their index.

    Returns:
        The bytes of all tensors.
    """
    shards: list[list[Entry]] = [[]]
    for entry in entries:
        entry.check_type()
        if shards[-1] and sum(e.size for e in shards[-1]) + entry.size > max_shard_size:
            shards.append([])
        shards[-1].append(entry)
    total = sum(entry.size for entry in entries)
    names = [SAFETENSORS]
    if len(shards) > 1:
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        weights = {entry.key: name for name, shard in zip(names, shards, strict=True) for entry in shard}
        metadata = {"total_size": total, "total_parameters": sum(prod(entry.shape) for entry in entries)}
        (folder / INDEX).write_text(json.dumps({"metadata": metadata, "weight_map": weights}, indent=2) + "\n")
    with tqdm(total=total, unit="B", unit_scale=True, disable=None if progress else True) as bar:
        for name, shard in zip(names, shards, strict=True):
            _write_file(folder / name, shard, bar)
    return total


def _write_file(path: Path, entries: list[Entry], bar: tqdm) -> None:
    header: dict = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        place = [offset, offset + entry.size]
        header[entry.key] = {"dtype": _NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": place}
        offset += entry.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start at multiples of 8 bytes
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for entry in entries:
            written = 0
            for values in entry.slices():
                written += file.write(values.view(torch.uint8).numpy())
                bar.update(values.nbytes)
            if written != entry.size:
                raise WritingError(f"{entry.key}: came as {written} bytes, not the {entry.size} of {list(entry.shape)}")


def write_pickle(path: Path, entries: list[Entry]) -> None:
    """Writes `{"model": state dict}` as Meta's training does."""
    for entry in entries:
        entry.check_type()
    state = {}
    for entry in tqdm(entries, unit="tensor", disable=None):
        state[entry.key] = torch.cat(list(entry.slices())).view(entry.shape)
    torch.save({"model": state}, path)
