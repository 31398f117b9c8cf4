"""Models with random weights, made in seconds: for timings, where only shapes and memory traffic matter."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn
from transformers import initialization

from modeling_fblt import FBLTConfig, FBLTForCausalLM

T = TypeVar("T", bound=nn.Module)

# Rows of each hash table. BLT-1B has 500002, 6.1 GB in bfloat16, of which a byte reads six rows: time does not depend
# on them.
HASH_ROWS = 1003
# No random patcher is that uncertain: patches are then cut by their longest length alone.
NO_ENTROPY_BOUNDARY = 1e9
# Weights repeat after so many values; prime, so that no two rows of a matrix are equal.
RANDOM_VALUES = 1_000_003


def geometry_1b(patch_length: int = 4, decoder_input: str = "embedding", **changes) -> FBLTConfig:
    """BLT-1B's shape: global 1.28 B, encoder 19 M, decoder 160 M and patcher 100 M parameters.

    Args:
        patch_length: bytes of every patch; the patcher runs all the same.
        decoder_input: see `FBLTDecoderConfig`.
        changes: top-level fields.
    """
    networks = {"encoder_config": {"hash_vocab_size": HASH_ROWS}, "decoder_config": {"input": decoder_input}}
    return _fixed_patches(patch_length, **networks, **changes)


def geometry_small(patch_length: int = 4, decoder_input: str = "embedding", **changes) -> FBLTConfig:
    """The bundled demo's shape, with windows of 512: 3 M parameters."""
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 352}
    networks = {
        "patcher_config": {**sizes, "num_hidden_layers": 2, "intermediate_size": 320},
        "encoder_config": {**sizes, "num_hidden_layers": 1, "hash_vocab_size": HASH_ROWS},
        "global_config": {
            "hidden_size": 256,
            "num_attention_heads": 4,
            "intermediate_size": 704,
            "num_hidden_layers": 4,
        },
        "decoder_config": {**sizes, "num_hidden_layers": 3, "input": decoder_input},
    }
    return _fixed_patches(patch_length, **networks, **changes)


def geometry_tiny(patch_length: int = 4, decoder_input: str = "embedding", **changes) -> FBLTConfig:
    """Just enough to run everything, for `--quick` and tests."""
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 1}
    networks = {
        "patcher_config": sizes,
        "encoder_config": {**sizes, "hash_vocab_size": HASH_ROWS},
        "global_config": {**sizes, "hidden_size": 64},
        "decoder_config": {**sizes, "num_hidden_layers": 2, "input": decoder_input},
    }
    return _fixed_patches(patch_length, **networks, **changes)


GEOMETRIES = {"1b": geometry_1b, "small": geometry_small, "tiny": geometry_tiny}


def _fixed_patches(patch_length: int, **changes) -> FBLTConfig:
    return FBLTConfig(patching_threshold=NO_ENTROPY_BOUNDARY, max_patch_length=patch_length, **changes)


@contextmanager
def without_initialization(dtype: torch.dtype) -> Iterator[None]:
    """Modules built inside get unset parameters of `dtype`, which cost neither time nor memory until written."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with initialization.no_init_weights():
            yield
    finally:
        torch.set_default_dtype(before)


def random_model(config: FBLTConfig, dtype: torch.dtype) -> FBLTForCausalLM:
    """A model in eval mode whose matrices hold random values of the scale that training starts from."""
    with without_initialization(dtype):
        return fill_randomly(FBLTForCausalLM(config), dtype)


@torch.no_grad()
def fill_randomly(model: T, dtype: torch.dtype) -> T:
    """Fills the matrices of a model with random values, of the scale that training starts from, and vectors with ones;
    in eval mode.
    """
    values = torch.randn(RANDOM_VALUES)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.dim() > 1:
                std = getattr(module, "init_std", parameter.shape[-1] ** -0.5)
                _fill(parameter.view(-1), (values * std).to(dtype))
            else:
                parameter.fill_(1.0)
    return model.eval()


def _fill(flat: torch.Tensor, values: torch.Tensor) -> None:
    for part in flat.split(len(values)):
        part.copy_(values[: len(part)])


def random_prompt(batch: int, length: int, seed: int) -> torch.Tensor:
    """`[batch, length]` rows of random printable bytes after `<s>`."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(32, 127, (batch, length), generator=generator) + 4
    ids[:, 0] = 1
    return ids
