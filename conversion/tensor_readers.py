# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Tensors of a checkpoint, read one at a time from files that are not trusted."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open

from .weight_names import Shape

SAFETENSORS, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "consolidated.pth"

# The types that weights of the model may have, by their names in safetensors.
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Those of other tensors, which a checkpoint may hold as long as the model needs none of them.
_OTHERS = {
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_DTYPES = FLOATS | _OTHERS


class ReadingError(ValueError):
    """A checkpoint that cannot be read; the message says which file and why."""


def check_float(key: str, dtype: torch.dtype, purpose: str) -> None:
    """Refuses a weight whose values are no plain floats: integers, quantised, 8-bit or complex numbers.

    Raises:
        ReadingError: names the key, its type and the remedy.
    """
    if dtype not in FLOATS.values():
        known = ", ".join(str(known).removeprefix("torch.") for known in FLOATS.values())
        raise ReadingError(
            f"{key}: is of type {str(dtype).removeprefix('torch.')}, but {purpose} needs one of {known}: "
            "give the checkpoint that it was quantised or cast from"
        )


class TensorReader(Protocol):
    """Tensors by key.

    Attributes:
        shapes, dtypes: of every tensor, known without reading it.
    """

    shapes: dict[str, Shape]
    dtypes: dict[str, torch.dtype]

    def read(self, key: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """A tensor, or its entries `start .. stop - 1` along the first dimension."""
        ...


def read_json(path: Path) -> dict:
    """A JSON object.

    Raises:
        ReadingError: it is missing or is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReadingError(f"{path}: is missing") from None
    except (ValueError, RecursionError) as error:
        raise ReadingError(f"{path}: is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ReadingError(f"{path}: holds a {type(content).__name__}, not an object")
    return content


class SafetensorsReader:
    """`model.safetensors`, or the shards that `model.safetensors.index.json` names."""

    def __init__(self, folder: Path):
        self.shapes, self.dtypes = {}, {}
        self._handles = {}
        index = folder / INDEX
        if index.is_file():
            promised = self._promised(index)
            files = sorted(set(promised.values()))
        else:
            promised, files = None, [SAFETENSORS]
        for name in files:
            self._add(folder / name)
        if promised is not None:
            for key, name in promised.items():
                if key not in self._handles:
                    raise ReadingError(f"{folder / name}: does not hold {key}, which {INDEX} places there")
            extra = set(self._handles) - set(promised)
            if extra:
                raise ReadingError(f"{index}: does not name {sorted(extra)[0]}, which a shard holds")

    @staticmethod
    def _promised(index: Path) -> dict[str, str]:
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise ReadingError(f"{index}: has no weight_map")
        for key, name in names.items():
            # A shard lies beside its index: a path could lead anywhere on this machine.
            if not isinstance(name, str) or Path(name).name != name or "\\" in name or name in ("", ".", ".."):
                raise ReadingError(f"{index}: places {key} in {name!r}, which is not a file name in that folder")
        return names

    def _add(self, path: Path) -> None:
        if not path.is_file():
            raise ReadingError(f"{path}: is missing")
        try:
            handle = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ReadingError(f"{path}: is damaged or cut short ({error})") from None
        for key in handle.keys():  # noqa: SIM118 (not a dict)
            if key in self._handles:
                raise ReadingError(f"{path}: holds {key}, which another shard holds too")
            part = handle.get_slice(key)
            kind = part.get_dtype()
            if kind not in _DTYPES:
                raise ReadingError(f"{path}: {key} is of type {kind}; expected one of {', '.join(_DTYPES)}")
            self.shapes[key], self.dtypes[key] = tuple(part.get_shape()), _DTYPES[kind]
            self._handles[key] = handle

    def read(self, key: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        return self._handles[key].get_slice(key)[start:stop]


class PickleReader:
    """`consolidated.pth`: a state dict, or one under `model`. Pages are read when a tensor is."""

    def __init__(self, path: Path):
        if not path.is_file():
            raise ReadingError(f"{path}: is missing")
        _check_archive(path)
        try:
            content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        except pickle.UnpicklingError as error:
            reason = str(error).splitlines()[0]
            raise ReadingError(
                f"{path}: needs more than tensors to load and could run code, so it is not loaded ({reason})"
            ) from None
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ReadingError(f"{path}: is damaged, cut short or of an old format ({reason})") from None
        state = content.get("model", content) if isinstance(content, dict) else content
        if not isinstance(state, dict) or not state:
            raise ReadingError(f"{path}: holds no state dict")
        for key, value in state.items():
            if not isinstance(key, str):
                raise ReadingError(f"{path}: holds a tensor under {key!r}, which is no name")
            if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_meta:
                raise ReadingError(f"{path}: {key} is not a plain tensor")
        self._state = state
        self.shapes = {key: tuple(value.shape) for key, value in state.items()}
        self.dtypes = {key: value.dtype for key, value in state.items()}

    def read(self, key: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        return self._state[key][start:stop]


def _check_archive(path: Path) -> None:
    """Checks what `torch.load` does not, of an archive that `torch.save` wrote: that its bytes are those written.

    Raises:
        ReadingError: a member is compressed, or not what its checksum says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    raise ReadingError(
                        f"{path}: {member.filename} in it is compressed: load it and save it again with `torch.save`"
                    )
            damaged = archive.testzip()
    except zipfile.BadZipFile:
        return  # `torch.load` says of what kind it is
    except (OSError, ValueError, RuntimeError, NotImplementedError, EOFError) as error:
        if isinstance(error, ReadingError):
            raise
        raise ReadingError(f"{path}: is damaged ({error})") from None
    if damaged is not None:
        raise ReadingError(f"{path}: is damaged: {damaged} in it is not what its checksum says")


class JoinedReader:
    """Several readers as one; the keys of each get a prefix."""

    def __init__(self, readers: dict[str, TensorReader]):
        self._origins = {}
        self.shapes, self.dtypes = {}, {}
        for prefix, reader in readers.items():
            for key in reader.shapes:
                self._origins[prefix + key] = reader, key
                self.shapes[prefix + key], self.dtypes[prefix + key] = reader.shapes[key], reader.dtypes[key]

    def read(self, key: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        reader, inner = self._origins[key]
        return reader.read(inner, start, stop)
