# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Meta's configs (`params.json`, the Hub's `args` and `train_args.json`) to FBLTConfig and back."""

from typing import Any

from modeling_fblt import FBLTConfig

from .config_fields import (
    BLT_VOCABULARY,
    LIMITS,
    META_DEFAULTS,
    META_ENTROPY_FIELDS,
    META_ENTROPY_RULES,
    META_FIELDS,
    META_PATCHING_FIELDS,
    META_PATCHING_RULES,
    META_RULES,
    ConfigError,
    Rule,
    build_config,
    check_sizes,
    collect,
    get,
    is_number,
    is_whole,
    obey,
    put,
)

LOADER_ENTROPY_WINDOW = 512  # what Meta's loader gives the entropy model
_BYTE_NETWORKS = ("encoder_config", "global_config", "decoder_config")


def feed_forward_width(width: int, multiplier: float | None, multiple_of: int) -> int:
    """Meta's hidden width of a feed-forward layer."""
    hidden = int(2 * (4 * width) / 3)
    if multiplier is not None:
        hidden = int(multiplier * hidden)
    return multiple_of * ((hidden + multiple_of - 1) // multiple_of)


def _take(fields: dict, source: dict, table: tuple[tuple[str, str], ...], where: str) -> None:
    for ours, theirs in table:
        if theirs not in source and theirs not in META_DEFAULTS:
            raise ConfigError(f"{where}: `{theirs}` is missing")
        put(fields, ours, source.get(theirs, META_DEFAULTS.get(theirs)))


def _take_network(fields: dict, source: dict, networks: tuple[str, ...], where: str) -> None:
    """Adds two fields that Meta writes in another form: the feed-forward's width and RoPE's base."""
    theta = source.get("rope_theta", META_DEFAULTS["rope_theta"])
    multiplier, multiple = source.get("ffn_dim_multiplier"), source.get("multiple_of", META_DEFAULTS["multiple_of"])
    if not is_whole(multiple, 1, LIMITS["intermediate_size"]):
        raise ConfigError(f"{where}: `multiple_of` is {multiple!r}; expected an integer of at least 1")
    for value, name in ((theta, "rope_theta"), (1.0 if multiplier is None else multiplier, "ffn_dim_multiplier")):
        if not is_number(value) or not 0 < value < 1e12:
            raise ConfigError(f"{where}: `{name}` is {value!r}; expected a positive number")
    for network in networks:
        width = feed_forward_width(fields[network]["hidden_size"], multiplier, multiple)
        fields[network] |= {
            "intermediate_size": width,
            "rope_parameters": {"rope_type": "default", "rope_theta": float(theta)},
        }


def import_meta(
    model: dict, patching: dict | None, entropy: dict, entropy_window: int | None, where: str
) -> FBLTConfig:
    """FBLTConfig of a Meta checkpoint.

    Args:
        model: arguments of the BLT.
        patching: `data.patcher_args` of its training, which the loader of released weights patches with; None where
            the checkpoint has none: the model's own arguments then.
        entropy: arguments of the entropy model.
        entropy_window: window of the entropy model; its config's, or 512 where that says nothing, when None.

    Raises:
        ConfigError: FBLT cannot express it; the message names the field.
    """
    obey(model, META_RULES, where)
    obey(entropy, META_ENTROPY_RULES, f"{where}, entropy model")
    if patching is None:
        names = {
            "patching_mode": "patching_mode",
            "monotonicity": "monotonicity",
            "max_patch_length": "max_patch_length",
        }
        names |= {"threshold": "patching_threshold", "threshold_add": "patching_threshold_add"}
        patching = {name: model.get(theirs) for name, theirs in names.items()}
    obey(patching, META_PATCHING_RULES, f"{where}, patcher_args")

    model = dict(model)
    sizes = model.get("encoder_hash_byte_group_size")
    if isinstance(sizes, str):
        parts = [part.strip() for part in sizes.split(",") if part.strip()]
        if not all(part.isdecimal() and len(part) < 10 for part in parts):
            raise ConfigError(f"{where}: `encoder_hash_byte_group_size` is {sizes!r}; expected sizes such as '3,4,5'")
        model["encoder_hash_byte_group_size"] = [int(part) for part in parts]
    elif sizes is None:
        model |= {"encoder_hash_byte_group_size": [3], "encoder_hash_byte_group_nb_functions": 0}
    fields: dict[str, Any] = {}
    _take(fields, model, META_FIELDS, where)
    _take(fields, entropy, META_ENTROPY_FIELDS, f"{where}, entropy model")
    _take(fields, patching, META_PATCHING_FIELDS, f"{where}, patcher_args")
    check_sizes(fields, where)
    obey({"dim_token": model.get("dim_token")}, (_token_rule(model["dim_local_encoder"]),), where)
    _take_network(fields, model, _BYTE_NETWORKS, where)
    _take_network(fields, entropy, ("patcher_config",), f"{where}, entropy model")
    patcher = fields["patcher_config"]
    patcher["sliding_window"] = entropy_window or patcher["sliding_window"] or LOADER_ENTROPY_WINDOW
    if fields["encoder_config"]["sliding_window"] is None:
        raise ConfigError(f"{where}: `local_attention_window_len` is None: BLT's local attention needs a window")
    return build_config(fields, where)


def _token_rule(width: int) -> Rule:
    return Rule("dim_token", (None, width), "BLT's code makes token projections then, but never applies them")


def _stated(config: FBLTConfig, path: str) -> Any:
    """A field's value as Meta's config states it: None where Meta derives that value by itself."""
    value = get(config, path)
    network, _, name = path.rpartition(".")
    if name == "cross_attn_num_heads" and value is None:
        return get(config, f"{network}.num_attention_heads")
    if name == "num_key_value_heads" and value == get(config, f"{network}.num_attention_heads"):
        return None
    if name == "head_dim" and value is not None:
        width, heads = get(config, f"{network}.hidden_size"), get(config, f"{network}.num_attention_heads")
        return None if value * heads == width else value
    return value


def _collect_network(config: FBLTConfig, networks: tuple[str, ...], layout: str) -> dict:
    parts = {name: getattr(config, name) for name in networks}
    bases = {}
    for name, part in parts.items():
        kind = part.rope_parameters.get("rope_type", "default")
        if kind != "default":
            raise ConfigError(f"`{name}.rope_parameters` is of type {kind!r}: {layout} has plain RoPE only")
        bases[name] = float(part.rope_parameters["rope_theta"])
    if len(set(bases.values())) > 1:
        raise ConfigError(f"`rope_theta` differs between networks ({bases}): {layout} has one")
    widths = [(part.hidden_size, part.intermediate_size) for part in parts.values()]
    for multiple in (256, 128, 64, 32, 16, 8, 4, 2, 1):
        # With 1.0 first; otherwise the ratio that the first network has, which the others must share.
        for multiplier in (1.0, (widths[0][1] - 0.5 * (multiple > 1)) / int(8 * widths[0][0] / 3), None):
            if all(feed_forward_width(d, multiplier, multiple) == wanted for d, wanted in widths):
                base = next(iter(bases.values()))
                return {"rope_theta": base, "ffn_dim_multiplier": multiplier, "multiple_of": multiple}
    raise ConfigError(
        f"`intermediate_size` is {[wanted for _, wanted in widths]} in {list(parts)}: no `ffn_dim_multiplier` and "
        "`multiple_of` "
        f"of {layout} gives all of them"
    )


def export_meta(config: FBLTConfig, layout: str) -> tuple[dict, dict, dict]:
    """Arguments of the BLT, of its patching and of its entropy model.

    Raises:
        ConfigError: Meta's layouts cannot express the config; the message names the field.
    """
    check_exportable(config, layout)
    for network in ("encoder_config", "decoder_config"):
        groups = getattr(config, network).cross_attn_num_key_value_heads
        heads = _stated(config, f"{network}.cross_attn_num_heads")
        if groups not in (None, heads):
            raise ConfigError(f"`{network}.cross_attn_num_key_value_heads` is {groups}: {layout} has no such groups")
    model = {rule.name: rule.allowed[0] for rule in META_RULES} | collect(config, META_FIELDS, layout, _stated)
    model |= _collect_network(config, _BYTE_NETWORKS, layout)
    if config.encoder_config.hash_functions == 0:
        model["encoder_hash_byte_group_size"] = None
    patching = {rule.name: rule.allowed[0] for rule in META_PATCHING_RULES}
    patching |= collect(config, META_PATCHING_FIELDS, layout, get) | {"patch_size": float(config.patch_size)}
    model |= {
        "patch_size": patching["patch_size"],
        "patching_mode": patching["patching_mode"],
        "patching_threshold": patching["threshold"],
        "max_patch_length": patching["max_patch_length"],
        "max_seqlen": config.global_config.max_position_embeddings,
        "max_encoder_seq_length": config.encoder_config.max_position_embeddings,
        "attn_impl": "xformers",
    }
    entropy = {rule.name: rule.allowed[0] for rule in META_ENTROPY_RULES} | collect(
        config, META_ENTROPY_FIELDS, layout, _stated
    )
    entropy |= _collect_network(config, ("patcher_config",), layout)
    entropy |= {"max_seqlen": config.patcher_config.max_position_embeddings, "attn_impl": "xformers"}
    return model, patching, entropy


def check_exportable(config: FBLTConfig, layout: str) -> None:
    """Refuses a config with what no BLT has.

    Raises:
        ConfigError: names the field.
    """
    if config.decoder_config.input != "encoder":
        raise ConfigError(
            f"`decoder_config.input` is {config.decoder_config.input!r}: in {layout} the encoder's states enter the "
            "decoder"
        )
    if config.patching_mode != "entropy":
        raise ConfigError(f"`patching_mode` is {config.patching_mode!r}: {layout} patches by entropy only")
    if config.vocab_size != BLT_VOCABULARY + 1:
        raise ConfigError(
            f"`vocab_size` is {config.vocab_size}: {layout} has {BLT_VOCABULARY} ids and FBLT `<mask>` besides"
        )
