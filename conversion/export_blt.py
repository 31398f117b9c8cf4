# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Writes an FBLT as a BLT: in transformers' layout, Meta's Hub layout or Meta's training layout.

fblt export-blt --source FBLT --output DIR --layout transformers|meta|training
"""

import json
from pathlib import Path

import click
import torch
from transformers import GenerationConfig

from fblt.commands import Command
from fblt.files import appearing_folder
from modeling_fblt import FBLTConfig
from modeling_fblt.tokenization_fblt import build_tokenizer

from .folder import copy_licences
from .mapping import Plan, plan_export
from .meta_config import export_meta
from .open_checkpoint import (
    FBLT,
    SCHEMES,
    TRAINING,
    TRANSFORMERS,
    empty_model,
    fetch,
    hash_tables,
    last_pooling,
    open_checkpoint,
    shapes_of,
)
from .tensor_readers import PICKLE, ReadingError
from .transformers_config import export_transformers
from .weight_names import ENTROPY_PREFIX, links
from .writing import Entry, parse_size, write_pickle, write_safetensors

_DTYPE_NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
LAYOUTS = tuple(SCHEMES)


def export(source: Path, output: Path, layout: str, max_shard_size: str = "5GB") -> list[str]:
    """Exports and returns what a user should know.

    Raises:
        ConfigError: the layout cannot express the config; the message names the field.
        ValueError: of the other kinds in this package. Nothing is written then.
    """
    size = parse_size(max_shard_size)
    checkpoint = open_checkpoint(source)
    if checkpoint.layout != FBLT:
        raise ReadingError(f"{source}: has the {checkpoint.layout} layout; give an FBLT")
    config = checkpoint.config
    target = export_transformers(config) if layout == TRANSFORMERS else export_meta(config, f"the {layout} layout")
    table = links(shapes_of(empty_model(config)), SCHEMES[layout], hash_tables(config), last_pooling(config))
    plan = plan_export(checkpoint.tensors, table)
    with appearing_folder(output, new=True) as folder:
        if layout == TRANSFORMERS:
            _write_transformers(folder, target, plan, size)
        else:
            _write_meta(folder, layout, target, plan, size)
        copy_licences(source, folder)
    return _notes(config, plan)


def _notes(config: FBLTConfig, plan: Plan) -> list[str]:
    notes = [f"{key} is {reason}" for key, reason in plan.ignored.items()]
    if config.block_size is not None:
        notes.append(f"A BLT drafts no blocks: what was trained for blocks of {config.block_size} bytes is left out.")
    if config.isolate_documents:
        notes.append(
            "A BLT's n-grams and patches run on over </s>: rows of one document are unchanged, packed rows are not."
        )
    return notes


def _write_transformers(folder: Path, config, plan: Plan, size: int) -> None:
    config.architectures = ["BltForCausalLM"]
    config.dtype = plan.entries[-1].dtype
    config.save_pretrained(folder)
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    GenerationConfig(**ids).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    write_safetensors(folder, plan.entries, size)


def _write_meta(folder: Path, layout: str, arguments: tuple[dict, dict, dict], plan: Plan, size: int) -> None:
    model, patching, entropy = arguments
    main = [entry for entry in plan.entries if not entry.key.startswith(ENTROPY_PREFIX)]
    prefix = len(ENTROPY_PREFIX)
    rest = [Entry(e.key[prefix:], e.shape, e.dtype, e.parts) for e in plan.entries if e.key.startswith(ENTROPY_PREFIX)]
    tokenizer = {"name": "blt", "init_kwargs": {}}
    training = {
        "model": model,
        "data": {"patcher_args": patching, "tokenizer_args": tokenizer, "add_bos": True, "add_eos": True},
        "distributed": {"model_dtype": _DTYPE_NAMES.get(main[-1].dtype, "fp32")},
    }
    entropy_training = {**training, "model": None, "entropy_model": entropy, "train_entropy_model": True}
    inner = folder / "entropy_model"
    if layout == TRAINING:
        inner.mkdir()
        _write_json(folder / "params.json", training)
        write_pickle(folder / PICKLE, main)
        _write_json(inner / "params.json", entropy_training)
        write_pickle(inner / PICKLE, rest)
        return
    inner = folder / "entropy"
    inner.mkdir()
    _write_json(folder / "config.json", {"args": model})
    _write_json(folder / "train_args.json", training)
    write_safetensors(folder, main, size)
    _write_json(inner / "config.json", {"args": entropy})
    write_safetensors(inner, rest, size)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


@click.command(cls=Command)
@click.option("--source", required=True, help="Folder or Hub repository of an FBLT.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--layout", required=True, type=click.Choice(LAYOUTS), help="Layout to write.")
@click.option("--max-shard-size", default="5GB", show_default=True, help="Of each file of weights.")
def main(source: str, output: Path, layout: str, max_shard_size: str) -> None:
    """Write an FBLT as a BLT, in Meta's layouts or transformers'."""
    print("\n".join(export(fetch(source), output, layout, max_shard_size)))


if __name__ == "__main__":
    main()
