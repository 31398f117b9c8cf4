# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Opening a checkpoint of any layout: its FBLTConfig, its tensors, and the table that maps them."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from transformers import initialization

from modeling_fblt import FBLTConfig, FBLTForCausalLM

from .meta_config import import_meta
from .tensor_readers import (
    PICKLE,
    JoinedReader,
    PickleReader,
    ReadingError,
    SafetensorsReader,
    TensorReader,
    read_json,
)
from .transformers_config import import_transformers
from .weight_names import ENTROPY_PREFIX, META, TRANSFORMERS, Link, Shape, links

TRAINING = "training"
FBLT = "fblt"
SCHEMES = {TRAINING: META, META: META, TRANSFORMERS: TRANSFORMERS}
_ENTROPY_FOLDERS = ("entropy", "entropy_model")
_READ = ("*.json", "*.safetensors", "*.pth", "LICENSE*", "README.md")


@dataclass
class Checkpoint:
    """A checkpoint, opened but not read.

    Attributes:
        layout: `"training"`, `"meta"`, `"transformers"` or `"fblt"`.
        folder: where it lies.
        config: the FBLTConfig of its model.
        tensors: its reader, which knows tensors by the layout's keys.
        ignored: patterns of keys that the model does not need, with reasons.
        last_pooling: number of the last cross-attention layer of its encoder.
        notes: what a user should know of the conversion.
    """

    layout: str
    folder: Path
    config: FBLTConfig
    tensors: TensorReader
    ignored: dict[str, str] = field(default_factory=dict)
    last_pooling: int = 0
    notes: list[str] = field(default_factory=list)

    def links(self, shapes: dict[str, Shape]) -> list[Link]:
        return links(shapes, SCHEMES[self.layout], hash_tables(self.config), self.last_pooling)


def hash_tables(config: FBLTConfig) -> int:
    """How many tables of hashed n-grams a BLT keeps apart."""
    return config.encoder_config.hash_functions * len(config.encoder_config.hash_ngram_sizes)


def last_pooling(config: FBLTConfig) -> int:
    """The number of the encoder's last cross-attention layer, in a layout that numbers them as FBLT applies them."""
    encoder = config.encoder_config
    return encoder.num_hidden_layers - 1 if encoder.cross_attn_all_layers else 0


def empty_model(config: FBLTConfig) -> FBLTForCausalLM:
    """The model without memory for its weights."""
    with torch.device("meta"), initialization.no_init_weights():
        return FBLTForCausalLM(config)


def shapes_of(model: torch.nn.Module) -> dict[str, Shape]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def fetch(source: str) -> Path:
    """A folder as it is; anything else is a repository of the Hub."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise ReadingError(f"{source}: is no folder, and no repository such as facebook/blt-1b")
    return Path(snapshot_download(source, allow_patterns=list(_READ)))


def refuse_links(folder: Path) -> None:
    """Refuses a folder with a link that leads out of it, where a conversion would read, or copy, what is elsewhere.

    The Hub's cache keeps files as links to the `blobs` of their repository: those are part of what was downloaded.

    Raises:
        ReadingError: names the link and where it leads.
    """
    root = folder.resolve()
    places = [root]
    if root.parent.name == "snapshots":
        places.append(root.parents[1] / "blobs")
    for pattern in (*_READ, *_ENTROPY_FOLDERS, *(f"{name}/{file}" for name in _ENTROPY_FOLDERS for file in _READ)):
        for path in folder.glob(pattern):
            try:
                target = path.resolve()
            except (OSError, RuntimeError):
                target = None  # a circle of links
            if target is None or not any(target.is_relative_to(place) for place in places):
                raise ReadingError(
                    f"{path}: is a link to {str(target or path.readlink())!r}, out of its folder, and is not followed: "
                    "put the file itself there"
                )


def open_checkpoint(folder: Path, entropy: Path | None = None, entropy_window: int | None = None) -> Checkpoint:
    """Finds the layout, reads the configs and lists the tensors.

    Args:
        folder: the checkpoint.
        entropy: the entropy model, where it does not lie in the folder (Meta's layouts).
        entropy_window: its window, if not as its config says.

    Raises:
        ReadingError, ConfigError: the checkpoint is damaged, or FBLT cannot express it.
    """
    for place in filter(None, (folder, entropy)):
        refuse_links(place)
    layout = detect(folder)
    if layout in (FBLT, TRANSFORMERS) and (entropy or entropy_window):
        raise ReadingError(f"{folder}: has the {layout} layout, whose patcher is part of it: leave --entropy* out")
    if layout == FBLT:
        config = FBLTConfig.from_pretrained(folder)
        return Checkpoint(layout, folder, config, SafetensorsReader(folder), last_pooling=last_pooling(config))
    if layout == TRANSFORMERS:
        return _open_transformers(folder)
    return _open_meta(folder, layout, entropy, entropy_window)


def detect(folder: Path) -> str:
    """The layout of a folder.

    Raises:
        ReadingError: none of those known.
    """
    if (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        kinds = {"blt": TRANSFORMERS, "fblt": FBLT}
        kind = config.get("model_type")
        if isinstance(kind, str) and kind in kinds:
            return kinds[kind]
        if isinstance(config.get("args"), dict):
            return META
    if (folder / "params.json").is_file():
        return TRAINING
    raise ReadingError(
        f"{folder}: no layout that is known: neither a config.json of transformers' BLT, of FBLT or with Meta's "
        "`args`, nor a params.json"
    )


def _section(content: dict, *path: str) -> dict | None:
    for name in path:
        content = content.get(name) if isinstance(content, dict) else None
    return content if isinstance(content, dict) else None


def _open_meta(folder: Path, layout: str, entropy: Path | None, window: int | None) -> Checkpoint:
    if layout == TRAINING:
        params = read_json(folder / "params.json")
        model, tensors = _section(params, "model"), PickleReader(folder / PICKLE)
        where = folder / "params.json"
    else:
        params = read_json(folder / "train_args.json") if (folder / "train_args.json").is_file() else {}
        model, tensors = read_json(folder / "config.json")["args"], SafetensorsReader(folder)
        where = folder / "config.json"
    if model is None:
        raise ReadingError(f"{where}: has no `model`")
    entropy_folder = entropy or next((folder / name for name in _ENTROPY_FOLDERS if (folder / name).is_dir()), None)
    if entropy_folder is None:
        raise ReadingError(f"{folder}: has no entropy model in {' or '.join(_ENTROPY_FOLDERS)}/; give --entropy")
    entropy_model, entropy_tensors = _open_entropy(entropy_folder)
    config = import_meta(model, _section(params, "data", "patcher_args"), entropy_model, window, str(where))
    joined = JoinedReader({"": tensors, ENTROPY_PREFIX: entropy_tensors})
    return Checkpoint(layout, folder, config, joined, last_pooling=last_pooling(config))


def _open_entropy(folder: Path) -> tuple[dict, TensorReader]:
    if (folder / "config.json").is_file():
        model, tensors = _section(read_json(folder / "config.json"), "args"), SafetensorsReader(folder)
    elif (folder / "params.json").is_file():
        model, tensors = _section(read_json(folder / "params.json"), "entropy_model"), PickleReader(folder / PICKLE)
    else:
        raise ReadingError(f"{folder}: holds no entropy model, neither config.json nor params.json")
    if model is None:
        raise ReadingError(f"{folder}: its config does not describe an entropy model")
    return model, tensors


def _open_transformers(folder: Path) -> Checkpoint:
    config, all_layers = import_transformers(folder)
    last = config.encoder_config.num_hidden_layers - 1 if all_layers else 0
    ignored, notes = {}, []
    if last:
        earlier = "|".join(map(str, range(last)))
        ignored[rf"model\.local_encoder\.cross_attn_layers\.({earlier})\..*"] = (
            "its patches are pooled anew by the next layer"
        )
        notes.append("transformers' BLT keeps the patches of the last encoder layer only, and so does this model.")
    if config.eos_token_id is None:
        notes.append("The config has no eos_token_id: attention does not stop at </s>. Generation stops there.")
    return Checkpoint(TRANSFORMERS, folder, config, SafetensorsReader(folder), ignored, last, notes)
