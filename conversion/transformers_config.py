# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""transformers' BltConfig to FBLTConfig and back."""

from pathlib import Path
from typing import Any

from transformers import BltConfig

from modeling_fblt import FBLTConfig

from .config_fields import (
    NETWORKS,
    TRANSFORMERS_FIELDS,
    TRANSFORMERS_RULES,
    ConfigError,
    build_config,
    collect,
    get,
    obey,
    put,
)
from .meta_config import check_exportable
from .tensor_readers import read_json

LAYOUT = "the transformers layout"
_CROSS = ("encoder_config", "decoder_config")


def import_transformers(folder: Path) -> tuple[FBLTConfig, bool]:
    """FBLTConfig of a folder of `BltForCausalLM`, and whether each of its encoder layers has a pooling.

    Raises:
        ConfigError: FBLT cannot express it; the message names the field.
    """
    where = str(folder / "config.json")
    stored = read_json(folder / "config.json")
    obey(stored, TRANSFORMERS_RULES, where)
    try:
        source = BltConfig.from_dict(stored)
    except Exception as error:  # strict dataclasses raise types of their own
        raise ConfigError(f"{where}: transformers refuses it ({error})") from None
    fields: dict[str, Any] = {"max_patch_length": None}
    for ours, theirs in TRANSFORMERS_FIELDS:
        put(fields, ours, get(source, theirs))
    for network in NETWORKS:
        head_dim = get(stored, f"{network}.head_dim") if get(stored, network) else None
        part = fields[network]
        if head_dim is not None and head_dim * part["num_attention_heads"] != part["hidden_size"]:
            raise ConfigError(
                f"{where}: `{network}.head_dim` is {head_dim}: transformers' BLT attends with hidden_size / heads"
            )
        if "sliding_window" in part and part["sliding_window"] is None:
            # No window: one that the longest row the config speaks of does not outgrow.
            part["sliding_window"] = part["max_position_embeddings"]
    if source.decoder_config.hidden_size_global != fields["global_config"]["hidden_size"]:
        raise ConfigError(f"{where}: `decoder_config.hidden_size_global` is not `global_config.hidden_size`")
    for network in _CROSS:
        if get(source, f"{network}.cross_attn_k") != fields["cross_attn_k"]:
            raise ConfigError(f"{where}: `{network}.cross_attn_k` is not `cross_attn_k`")
    # Its encoder pools anew in every layer and keeps the last layer's patches only.
    fields["encoder_config"]["cross_attn_all_layers"] = False
    return build_config(fields, where), bool(source.encoder_config.cross_attn_all_layers)


def export_transformers(config: FBLTConfig) -> BltConfig:
    """The BltConfig of an FBLT.

    Raises:
        ConfigError: transformers' BLT cannot express it; the message names the field.
    """
    check_exportable(config, LAYOUT)
    encoder = config.encoder_config
    if encoder.cross_attn_all_layers and encoder.num_hidden_layers > 1:
        raise ConfigError("`encoder_config.cross_attn_all_layers` is True: transformers' BLT pools anew in every layer")
    if encoder.hash_functions == 0 or not encoder.hash_ngram_sizes:
        raise ConfigError("`encoder_config.hash_functions` is 0: transformers' BLT always hashes")
    for network in NETWORKS:
        part = getattr(config, network)
        if part.head_dim is not None and part.head_dim * part.num_attention_heads != part.hidden_size:
            raise ConfigError(
                f"`{network}.head_dim` is {part.head_dim}: transformers' BLT has hidden_size / heads only"
            )
    for network in _CROSS:
        part = getattr(config, network)
        heads = part.cross_attn_num_heads or part.num_attention_heads
        groups = part.num_key_value_heads or part.num_attention_heads
        if heads != part.num_attention_heads:
            raise ConfigError(f"`{network}.cross_attn_num_heads` is {heads}: {LAYOUT} has those of self-attention")
        if (part.cross_attn_num_key_value_heads or heads) != groups:
            raise ConfigError(
                f"`{network}.cross_attn_num_key_value_heads` is not {groups}: {LAYOUT} has those of self-attention"
            )
    table = [row for row in TRANSFORMERS_FIELDS if "cross_attn_num_key_value_heads" not in row[0]]  # checked above
    fields: dict[str, Any] = {}
    for theirs, value in collect(config, table, LAYOUT, get).items():
        put(fields, theirs, value)
    for network in _CROSS:
        fields[network] |= {"cross_attn_k": config.cross_attn_k, "hidden_size_global": config.global_config.hidden_size}
    fields["encoder_config"]["cross_attn_all_layers"] = False
    return BltConfig(
        **fields,
        bos_token_id=config.bos_token_id,
        pad_token_id=config.pad_token_id,
        rope_parameters=config.global_config.rope_parameters,
        max_position_embeddings=config.global_config.max_position_embeddings,
    )
