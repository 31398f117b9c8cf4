"""transformers' `BltForCausalLM` of a model's geometry, which is what a user would otherwise run.

It is right with `use_cache=False` only, which recomputes everything for every byte.
"""

import copy
from dataclasses import dataclass

from fblt.conversion.transformers_model import blt_of
from transformers import BltForCausalLM

from .random_models import without_initialization


@dataclass
class Twin:
    """A `BltForCausalLM` that shares a model's weights.

    Attributes:
        same_function: whether it computes what the model computes, as far as the two architectures agree.
        note: what a reader of its figures should know.
    """

    model: BltForCausalLM
    same_function: bool
    note: str


def transformers_twin(model) -> Twin:
    """The BLT of a model's shape, whose tensors are views of the model's: no memory is needed for it.

    A model whose decoder reads byte embeddings is no BLT: its twin's decoder reads the encoder's states instead. Its
    text is meaningless then, its patches, shapes and work are the same.

    Raises:
        ConfigError: transformers' BLT cannot have this shape; the message names the field.
    """
    config = copy.deepcopy(model.config)
    same = config.decoder_config.input == "encoder"
    config.decoder_config.input = "encoder"
    with without_initialization(model.dtype):
        twin = blt_of(model, config)
    note = "the same weights" if same else "the same weights, but its decoder reads encoder states: timing only"
    if same and config.max_patch_length is not None:
        note += "; it loses the patch boundary at the next position where patches are cut by their length"
    return Twin(twin, same and config.max_patch_length is None, note)
