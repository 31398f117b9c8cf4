# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""transformers' `BltForCausalLM` with the weights of an FBLT, made in memory."""

from transformers import BltForCausalLM, initialization

from modeling_fblt import FBLTConfig, FBLTForCausalLM

from .open_checkpoint import hash_tables, last_pooling, shapes_of
from .transformers_config import export_transformers
from .weight_names import TRANSFORMERS, links


def blt_of(model: FBLTForCausalLM, config: FBLTConfig | None = None) -> BltForCausalLM:
    """The BLT of a model, in eval mode. Its tensors are views of the model's, so it needs no memory of its own.

    Args:
        model: where the weights are.
        config: what to make the BLT of, if not of the model's own config.

    Raises:
        ConfigError: transformers' BLT cannot express the config; the message names the field.
    """
    config = model.config if config is None else config
    with initialization.no_init_weights():
        blt = BltForCausalLM(export_transformers(config))
    tensors = model.state_dict()
    shared = {}
    for link in links(shapes_of(model), TRANSFORMERS, hash_tables(config), last_pooling(config)):
        entries = link.part_shape[0]
        for i, key in enumerate(link.keys):
            shared[key] = tensors[link.fblt][i * entries : (i + 1) * entries]
    blt.load_state_dict(shared, assign=True)
    return blt.eval()
