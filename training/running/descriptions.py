"""Sharded checkpoints read without executing anything: torch unpickles their descriptions and plain values."""

import io
import pickle
from pathlib import Path

import torch
from torch.distributed.checkpoint import DefaultLoadPlanner
from torch.distributed.checkpoint.planner import ReadItem

# What the description of a checkpoint is made of: torch's dataclasses, and what these hold.
KNOWN = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "pathlib": {"PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"},
}


class _Description(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        known = name in KNOWN.get(module, ())
        if known or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        raise ValueError(f"{module}.{name}")


def check_description(file: Path) -> None:
    """Refuses a sharded checkpoint whose description would execute something when torch reads it.

    Raises:
        ValueError: it would, or it is damaged.
    """
    try:
        with open(file, "rb") as opened:
            _Description(opened).load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise ValueError(
            f"{file}: is damaged, or no description of a checkpoint ({error}): nothing of it was read. Go on from "
            "another checkpoint."
        ) from error


class CheckedPlanner(DefaultLoadPlanner):
    """Torch's plan of what to read, which refuses values that would execute something when they are read."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        torch.load(value, weights_only=True)
        value.seek(0)
        super().load_bytes(read_item, value)
