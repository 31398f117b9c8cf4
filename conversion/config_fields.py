# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Configs as tables: which field is which in other layouts, which values are refused, and how large a model may be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modeling_fblt import FBLTConfig

NETWORKS = ("patcher_config", "encoder_config", "global_config", "decoder_config")
BLT_VOCABULARY = 260


class ConfigError(ValueError):
    """A config that the other side cannot express; the message names the field."""


@dataclass(frozen=True)
class Rule:
    """A source field that must have one of some values; absent counts as the first of them."""

    name: str
    allowed: Sequence[Any]
    because: str


# FBLT's field, then the source's. A source field that stands for several of FBLT's says the same of all of them.
META_FIELDS: tuple[tuple[str, str], ...] = (
    ("cross_attn_k", "cross_attn_k"),
    ("encoder_config.hidden_size", "dim_local_encoder"),
    ("encoder_config.num_hidden_layers", "n_layers_local_encoder"),
    ("encoder_config.num_attention_heads", "n_heads_local_encoder"),
    ("encoder_config.num_key_value_heads", "n_kv_heads"),
    ("encoder_config.head_dim", "head_dim"),
    ("encoder_config.rms_norm_eps", "norm_eps"),
    ("encoder_config.sliding_window", "local_attention_window_len"),
    ("encoder_config.cross_attn_num_heads", "cross_attn_nheads"),
    ("encoder_config.cross_attn_all_layers", "cross_attn_all_layers_encoder"),
    ("encoder_config.hash_ngram_sizes", "encoder_hash_byte_group_size"),
    ("encoder_config.hash_functions", "encoder_hash_byte_group_nb_functions"),
    ("encoder_config.hash_vocab_size", "encoder_hash_byte_group_vocab"),
    ("global_config.hidden_size", "dim_global"),
    ("global_config.num_hidden_layers", "n_layers_global"),
    ("global_config.num_attention_heads", "n_heads_global"),
    ("global_config.num_key_value_heads", "n_kv_heads_global"),
    ("global_config.head_dim", "head_dim"),
    ("global_config.rms_norm_eps", "norm_eps"),
    ("decoder_config.hidden_size", "dim_local_decoder"),
    ("decoder_config.num_hidden_layers", "n_layers_local_decoder"),
    ("decoder_config.num_attention_heads", "n_heads_local_decoder"),
    ("decoder_config.num_key_value_heads", "n_kv_heads"),
    ("decoder_config.head_dim", "head_dim"),
    ("decoder_config.rms_norm_eps", "norm_eps"),
    ("decoder_config.sliding_window", "local_attention_window_len"),
    ("decoder_config.cross_attn_num_heads", "cross_attn_nheads"),
    ("decoder_config.cross_attn_all_layers", "cross_attn_all_layers_decoder"),
)
META_ENTROPY_FIELDS: tuple[tuple[str, str], ...] = (
    ("patcher_config.hidden_size", "dim"),
    ("patcher_config.num_hidden_layers", "n_layers"),
    ("patcher_config.num_attention_heads", "n_heads"),
    ("patcher_config.num_key_value_heads", "n_kv_heads"),
    ("patcher_config.head_dim", "head_dim"),
    ("patcher_config.rms_norm_eps", "norm_eps"),
    ("patcher_config.sliding_window", "sliding_window"),
)
META_PATCHING_FIELDS: tuple[tuple[str, str], ...] = (
    ("patching_threshold", "threshold"),
    ("max_patch_length", "max_patch_length"),
)
# Meta's defaults where a config leaves a field out.
META_DEFAULTS = {
    "norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "multiple_of": 256,
    "n_kv_heads": None,
    "n_kv_heads_global": None,
    "head_dim": None,
    "cross_attn_all_layers_encoder": False,
    "cross_attn_all_layers_decoder": False,
    "encoder_hash_byte_group_nb_functions": 3,
    "encoder_hash_byte_group_vocab": 30000,
    "max_patch_length": None,
    "sliding_window": None,
}
_META_COMMON = (
    Rule("vocab_size", (BLT_VOCABULARY,), "FBLT has the 256 bytes and BLT's 4 special ids"),
    Rule("eos_id", (2,), "`</s>` is id 2 in FBLT"),
    Rule("weight_tying", (False,), "FBLT's embedding and head are separate"),
)
META_RULES = (
    *_META_COMMON,
    Rule("cross_attn_encoder", (True,), "FBLT pools by cross-attention"),
    Rule("cross_attn_decoder", (True,), "FBLT's decoder reads latents by cross-attention"),
    Rule("cross_attn_init_by_pooling", (True,), "FBLT's patches start from pooled bytes"),
    Rule("cross_attn_window_encoder", (None,), "FBLT's patches see their own bytes only"),
    Rule("cross_attn_window_decoder", (None,), "FBLT's bytes read one latent"),
    Rule("downsampling_by_pooling", ("max",), "FBLT pools by maximum"),
    Rule("use_local_encoder_transformer", (True,), "FBLT's encoder is a transformer"),
    Rule("share_encoder_decoder_emb", (True,), "FBLT's decoder goes on from the encoder's states"),
    Rule("encoder_enable_byte_ngrams", (False,), "FBLT has hashed n-grams only"),
    Rule("encoder_ngram_to_size_str", (None,), "FBLT has hashed n-grams only"),
    Rule("pm_size", (0,), "FBLT has no parameter-mixing ids"),
    Rule("use_rope", (True,), "FBLT's positions are rotary"),
    Rule("norm_type", ("rmsnorm",), "FBLT's norms are RMSNorm"),
    Rule("norm_affine", (True,), "FBLT's norms have weights"),
    Rule("pre_norm", (True,), "FBLT norms before each part"),
    Rule("non_linearity", ("swiglu",), "FBLT's feed-forward is SwiGLU"),
    Rule("architecture", ("vanilla",), "FBLT has plain transformer layers"),
    Rule("attn_bias_type", ("block_causal",), "FBLT's global model is causal within a document"),
    Rule("global_local_decoder_residual_layer", (None,), "FBLT has no such residual"),
    Rule("tie_local_encoder_decoder", (False,), "FBLT's encoder and decoder are separate"),
    Rule("tie_local_encoder_decoder_logits", (False,), "FBLT's embedding and head are separate"),
    Rule("tokenize_with_bpe_delimiter", (False,), "FBLT reads plain bytes"),
    Rule("conv_kernel_size", (None,), "FBLT has no convolution"),
)
META_ENTROPY_RULES = (
    *_META_COMMON,
    Rule("attn_bias_type", ("local_block_causal",), "FBLT's patcher sees a window within a document"),
)
META_PATCHING_RULES = (
    Rule("patching_mode", ("entropy",), "the patcher decides where patches start"),
    Rule("monotonicity", (False, None), "FBLT starts a patch where entropy exceeds a threshold, not where it rises"),
    Rule("threshold_add", (None,), "FBLT has one threshold"),
)

_HF_NETWORK = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "rms_norm_eps")
_HF_SHARED = (*_HF_NETWORK, "num_key_value_heads", "rope_parameters", "max_position_embeddings")
TRANSFORMERS_FIELDS: tuple[tuple[str, str], ...] = (
    *((f"{network}.{name}", f"{network}.{name}") for network in NETWORKS for name in _HF_SHARED),
    *(
        (f"{network}.cross_attn_num_key_value_heads", f"{network}.num_key_value_heads")
        for network in ("encoder_config", "decoder_config")
    ),
    ("patcher_config.sliding_window", "patcher_config.sliding_window"),
    ("encoder_config.sliding_window", "local_attention_window_len"),
    ("decoder_config.sliding_window", "local_attention_window_len"),
    ("encoder_config.hash_ngram_sizes", "encoder_hash_byte_group_size"),
    ("encoder_config.hash_functions", "encoder_hash_byte_group_nb_functions"),
    ("encoder_config.hash_vocab_size", "encoder_hash_byte_group_vocab"),
    ("decoder_config.cross_attn_all_layers", "decoder_config.cross_attn_all_layers"),
    ("cross_attn_k", "cross_attn_k"),
    ("patching_threshold", "patching_threshold"),
    ("max_patch_length", "max_patch_length"),
    ("eos_token_id", "eos_token_id"),
)
TRANSFORMERS_RULES = (
    Rule("vocab_size", (BLT_VOCABULARY,), "FBLT has the 256 bytes and BLT's 4 special ids"),
    Rule("patching_mode", ("entropy",), "transformers' BLT patches by entropy only"),
    Rule("patch_in_forward", (True,), "the patcher must be part of the checkpoint"),
    Rule("tie_word_embeddings", (False,), "FBLT's embedding and head are separate"),
    *(Rule(f"{network}.hidden_act", ("silu",), "FBLT's feed-forward is SwiGLU") for network in NETWORKS),
    *(
        Rule(f"{network}.vocab_size", (BLT_VOCABULARY,), "FBLT has the 256 bytes and BLT's 4 special ids")
        for network in ("patcher_config", "encoder_config", "decoder_config")
    ),
)

# Far above any BLT, far below what would exhaust a machine while the model is laid out.
LIMITS = {
    "num_hidden_layers": 1000,
    "hidden_size": 1 << 16,
    "intermediate_size": 1 << 19,
    "num_attention_heads": 1 << 12,
    "num_key_value_heads": 1 << 12,
    "cross_attn_num_heads": 1 << 12,
    "cross_attn_num_key_value_heads": 1 << 12,
    "head_dim": 1 << 13,
    "sliding_window": 1 << 30,
    "max_position_embeddings": 1 << 40,
    "max_patch_length": 1 << 20,
    "hash_vocab_size": 1 << 28,
    "cross_attn_k": 256,
}
REQUIRED = ("num_hidden_layers", "hidden_size", "num_attention_heads", "rms_norm_eps")  # of every network
_MOST_SIZES, _LONGEST_NGRAM, _MOST_FUNCTIONS = 64, 64, 64


def get(config: Any, path: str) -> Any:
    """`get(config, "encoder_config.hidden_size")`, of nested objects or dicts; None where there is no such field."""
    for name in path.split("."):
        config = config.get(name) if isinstance(config, dict) else getattr(config, name, None)
    return config


def put(target: dict, path: str, value: Any) -> None:
    """The counterpart of [`get`] for nested dicts."""
    *parents, name = path.split(".")
    for parent in parents:
        target = target.setdefault(parent, {})
    target[name] = value


def obey(source: dict, rules: Sequence[Rule], where: str) -> None:
    """Refuses a source whose fields say what FBLT cannot express.

    Raises:
        ConfigError: names the field, its value and the reason.
    """
    for rule in rules:
        value = get(source, rule.name)
        if value is None and rule.name.split(".")[-1] not in source:
            continue
        if value not in rule.allowed:
            expected = " or ".join(map(repr, rule.allowed))
            raise ConfigError(f"{where}: `{rule.name}` is {value!r}, FBLT expresses {expected} only: {rule.because}")


def collect(
    config: FBLTConfig, table: Sequence[tuple[str, str]], layout: str, value_of: Callable[[FBLTConfig, str], Any]
) -> dict[str, Any]:
    """The layout's fields of an FBLTConfig, by name.

    Raises:
        ConfigError: two fields differ that the layout has one field for.
    """
    result: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for ours, theirs in table:
        value = value_of(config, ours)
        if theirs in result and result[theirs] != value:
            raise ConfigError(
                f"`{origin[theirs]}` is {result[theirs]!r} and `{ours}` {value!r}: {layout} has one field, "
                f"`{theirs}`, for both"
            )
        result[theirs], origin[theirs] = value, ours
    return result


def check_sizes(fields: dict, where: str) -> None:
    """Refuses sizes that are no positive integers or absurdly large, before anything of such a size is made, and
    numbers that are none.

    Raises:
        ConfigError: names the field and its value.
    """
    networks = {name: fields[name] for name in NETWORKS if name in fields}
    for prefix, group in {"": fields, **{f"{name}.": network for name, network in networks.items()}}.items():
        for name, limit in LIMITS.items():
            value = group.get(name)
            if value is not None and not is_whole(value, 1, limit):
                raise ConfigError(f"{where}: {prefix}{name} is {value!r}; expected an integer from 1 to {limit}")
    for name, network in networks.items():
        if missing := [field for field in REQUIRED if network.get(field) is None]:
            raise ConfigError(f"{where}: {name}.{missing[0]} is missing")
        if not is_number(network["rms_norm_eps"]) or not 0 < network["rms_norm_eps"] < 1:
            raise ConfigError(
                f"{where}: {name}.rms_norm_eps is {network['rms_norm_eps']!r}; expected a number above 0 and below 1"
            )
    if "patching_threshold" in fields and not is_number(fields["patching_threshold"]):
        raise ConfigError(f"{where}: patching_threshold is {fields['patching_threshold']!r}; expected nats")
    encoder = fields["encoder_config"]
    sizes, functions = encoder["hash_ngram_sizes"], encoder.get("hash_functions")
    fine = isinstance(sizes, list) and len(sizes) <= _MOST_SIZES
    if not fine or not all(is_whole(size, 2, _LONGEST_NGRAM) for size in sizes):
        raise ConfigError(f"{where}: n-gram sizes are {sizes!r}; expected integers from 2 to {_LONGEST_NGRAM}")
    if not is_whole(functions, 0, _MOST_FUNCTIONS):
        raise ConfigError(
            f"{where}: the number of hash functions is {functions!r}; expected an integer from 0 to {_MOST_FUNCTIONS}"
        )


def is_whole(value: Any, least: int, most: int) -> bool:
    """Whether a value of a config is an integer, which True is not, within bounds."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value: Any) -> bool:
    """Whether a value of a config is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300


def build_config(fields: dict, where: str) -> FBLTConfig:
    """An FBLTConfig for converted weights.

    Raises:
        ConfigError: a value that FBLT cannot express.
    """
    check_sizes(fields, where)
    fields["decoder_config"]["input"] = "encoder"
    encoder, decoder = (fields[name]["hidden_size"] for name in ("encoder_config", "decoder_config"))
    if encoder != decoder:
        raise ConfigError(
            f"{where}: the local encoder is {encoder} wide and the local decoder {decoder}: encoder states enter the "
            "decoder "
            "as they are, in BLT's own code too, so both need one width"
        )
    try:
        return FBLTConfig(**{"isolate_documents": False, "block_size": None, **fields})
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from None
