# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Prepares an FBLT without blocks, such as a converted BLT, for fine-tuning with the block loss.

    fblt add-diffusion --source FBLT --output DIR --block-size 8

The decoder gets a byte table with an entry for `<mask>`, where it has none. Block bytes alone enter through it, so
next-byte logits stay exactly as they are. With `--decoder-input embedding` clean bytes enter through it too, as in Fast
BLT. A decoder that was trained on encoder states has to be trained anew then, and the command says so.

A draft head is added too, unless `--draft-head-size` is 0. It changes nothing until it is trained.
"""

from collections.abc import Iterator
from pathlib import Path

import click
import torch

from fblt.commands import Command
from fblt.files import appearing_folder
from modeling_fblt import FBLTConfig
from modeling_fblt.configuration_fblt import DECODER_INPUTS, MASK_ID, FBLTDraftHeadConfig
from modeling_fblt.draft_head_fblt import FBLTDraftHead
from modeling_fblt.modeling_fblt import FBLTForCausalLM

from .config_fields import ConfigError
from .folder import Provenance, copy_licences, licence_of, write_card, write_folder
from .open_checkpoint import FBLT, empty_model, fetch, open_checkpoint, shapes_of
from .tensor_readers import ReadingError, TensorReader, check_float
from .writing import Entry, parse_size, write_safetensors

TABLE = "model.decoder.embed_tokens.weight"
ENCODER_TABLE = "model.encoder.embed_tokens.weight"
HEAD, BYTE_HEAD = "draft_head.", "lm_head.weight"
HEAD_SIZE = FBLTDraftHeadConfig().hidden_size
INITS = ("mean", "zeros", "random")


def mask_embedding(table: torch.Tensor, init: str) -> torch.Tensor:
    """The embedding of `<mask>`, `[1, width]`, from those of the other ids `[260, width]`.

    `"mean"` is their mean, which tells the decoder least about the byte; `"random"` is drawn with their deviation.
    """
    if init == "mean":
        return table.float().mean(0, keepdim=True)
    mask = torch.zeros(1, table.shape[1])
    if init == "random":
        mask.normal_(std=float(table.float().std()), generator=torch.Generator().manual_seed(0))
    return mask


def fresh_head(model: FBLTForCausalLM) -> dict[str, torch.Tensor]:
    """A draft head's first weights by the model's keys, the same ones every time; none for a model without a head."""
    config = model.config
    if config.draft_head_config is None:
        return {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = FBLTDraftHead(config.draft_head_config, config.decoder_config.hidden_size)
        for module in head.modules():
            model._init_weights(module)
    return {HEAD + name: weight for name, weight in head.state_dict().items()}


def with_blocks(config: FBLTConfig, block_size: int, decoder_input: str | None, head_size: int) -> FBLTConfig:
    """The config of the model to write; `head_size` 0 for one without a draft head.

    Raises:
        ConfigError: it has blocks already, or cannot have these.
    """
    if config.block_size is not None:
        raise ConfigError(f"`block_size` is {config.block_size} already: fine-tune this model as it is")
    fields = config.to_dict()
    fields["block_size"] = block_size
    fields["decoder_config"]["input"] = decoder_input or config.decoder_config.input
    if head_size > 0:
        fields["draft_head_config"] = {"hidden_size": head_size}
    try:
        return FBLTConfig.from_dict(fields)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def add_diffusion(
    source: Path,
    output: Path,
    block_size: int,
    decoder_input: str | None = None,
    init: str = "mean",
    max_shard_size: str = "5GB",
    draft_head_size: int = HEAD_SIZE,
) -> list[str]:
    """Writes the prepared model and returns what a user should know.

    Raises:
        ValueError: of the kinds in this package; nothing is written then.
    """
    size = parse_size(max_shard_size)
    checkpoint = open_checkpoint(source)
    if checkpoint.layout != FBLT:
        raise ReadingError(f"{source}: has the {checkpoint.layout} layout: convert it with `fblt convert` first")
    config = with_blocks(checkpoint.config, block_size, decoder_input, draft_head_size)
    model = empty_model(config)
    shapes, tensors = shapes_of(model), checkpoint.tensors
    entries, head = [], fresh_head(model)
    for key, shape in shapes.items():
        if key in head:
            entries.append(Entry(key, shape, tensors.dtypes[BYTE_HEAD], _fresh(head[key])))
            continue
        origin = ENCODER_TABLE if key == TABLE and TABLE not in tensors.shapes else key
        if tensors.shapes.get(origin) != shape:
            raise ReadingError(
                f"{source}: {origin} has shape {tensors.shapes.get(origin)}, the model needs {list(shape)} for {key}"
            )
        check_float(origin, tensors.dtypes[origin], key)
        parts = _table(tensors, origin, init) if key == TABLE else _whole(tensors, key)
        entries.append(Entry(key, shape, tensors.dtypes[origin], parts))
    before = checkpoint.config.decoder_config.input
    if config.decoder_config.input == before:
        notes = ["Next-byte logits are exactly those of the source; blocks need fine-tuning before they draft well."]
    else:
        notes = [
            f"The decoder read bytes as {before!r} input and now reads {config.decoder_config.input!r}: next-byte "
            "logits change, and "
            "the model needs training before it is of use."
        ]
    with appearing_folder(output, new=True) as folder:
        write_folder(folder, model, entries[-1].dtype)
        write_safetensors(folder, entries, size)
        copy_licences(source, folder)
        notes = [f"Prepared for blocks of {block_size} bytes by `fblt add-diffusion`.", *notes]
        write_card(folder, Provenance(str(source), FBLT, licence_of(source), notes=notes))
    return notes


def _whole(tensors: TensorReader, key: str):
    def parts() -> Iterator[torch.Tensor]:
        yield tensors.read(key)

    return parts


def _fresh(weight: torch.Tensor):
    def parts() -> Iterator[torch.Tensor]:
        yield weight

    return parts


def _table(tensors: TensorReader, key: str, init: str):
    def parts() -> Iterator[torch.Tensor]:
        known = tensors.read(key, 0, MASK_ID)
        yield known
        yield mask_embedding(known, init)

    return parts


@click.command(cls=Command)
@click.option("--source", required=True, help="Folder or Hub repository of an FBLT.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--block-size", required=True, type=int, help="Bytes of a block.")
@click.option(
    "--decoder-input",
    type=click.Choice(DECODER_INPUTS),
    help="What clean bytes enter the decoder as.  [default: as in the source]",
)
@click.option("--init", type=click.Choice(INITS), default="mean", show_default=True, help="Of the <mask> entry.")
@click.option(
    "--draft-head-size",
    type=click.IntRange(0),
    default=HEAD_SIZE,
    show_default=True,
    help="Width of the draft head's state; 0 for none.",
)
@click.option("--max-shard-size", default="5GB", show_default=True, help="Of each file of weights.")
def main(source: str, **options) -> None:
    """Prepare an FBLT without blocks for fine-tuning with the block loss."""
    print("\n".join(add_diffusion(fetch(source), **options)))


if __name__ == "__main__":
    main()
