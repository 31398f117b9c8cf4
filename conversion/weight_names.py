# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The name of every weight in each naming scheme: one table, read in both directions.

Every key ends in `.weight`, which the table leaves out. `{i}` counts modules. `{last}` is the pooling after the last
encoder layer. A key with `{h}` stands for all hash tables, which FBLT keeps end to end in one tensor. Meta keeps the
entropy model in files of its own; its keys carry the prefix `entropy_model/` here.
"""

from dataclasses import dataclass
from itertools import count

Shape = tuple[int, ...]

META, TRANSFORMERS = "meta", "transformers"
ENTROPY_PREFIX = "entropy_model/"


@dataclass(frozen=True)
class WeightName:
    """The names of one weight.

    Attributes:
        fblt, meta, transformers: its key in each scheme.
        has_mask: FBLT's tensor has one entry more than BLT's, for `<mask>`.
    """

    fblt: str
    meta: str
    transformers: str
    has_mask: bool = False


LAYER = (
    WeightName("attention_norm", "attention_norm", "input_layernorm"),
    WeightName("attention.q_proj", "attention.wq", "self_attn.q_proj"),
    WeightName("attention.k_proj", "attention.wk", "self_attn.k_proj"),
    WeightName("attention.v_proj", "attention.wv", "self_attn.v_proj"),
    WeightName("attention.o_proj", "attention.wo", "self_attn.o_proj"),
    WeightName("feed_forward_norm", "ffn_norm", "post_attention_layernorm"),
    WeightName("feed_forward.gate_proj", "feed_forward.w1", "mlp.gate_proj"),
    WeightName("feed_forward.up_proj", "feed_forward.w3", "mlp.up_proj"),
    WeightName("feed_forward.down_proj", "feed_forward.w2", "mlp.down_proj"),
)
CROSS_ATTENTION = (
    WeightName("query_norm", "cross_attn_norm_q", "q_norm"),
    WeightName("key_norm", "cross_attn_norm_kv", "k_norm"),
    WeightName("q_proj", "wq", "q_proj"),
    WeightName("k_proj", "wk", "k_proj"),
    WeightName("v_proj", "wv", "v_proj"),
    WeightName("o_proj", "wo", "o_proj"),
)


def _each(module: WeightName, parts: tuple[WeightName, ...]) -> list[WeightName]:
    """The tensors of a module: its key in each scheme, continued by those of its parts."""
    schemes = ("fblt", "meta", "transformers")
    return [WeightName(*(f"{getattr(module, s)}.{getattr(part, s)}" for s in schemes)) for part in parts]


_ENCODER, _DECODER, _GLOBAL = "model.local_encoder", "model.local_decoder", "model.global_transformer"

TABLE: tuple[WeightName, ...] = (
    WeightName(
        "model.patcher.embed_tokens", "entropy_model/tok_embeddings", "model.patcher.embed_tokens", has_mask=True
    ),
    *_each(WeightName("model.patcher.layers.{i}", "entropy_model/layers.{i}", "model.patcher.layers.{i}"), LAYER),
    WeightName("model.patcher.norm", "entropy_model/norm", "model.patcher.norm"),
    WeightName("model.patcher.lm_head", "entropy_model/output", "model.patcher.lm_head"),
    WeightName("model.encoder.embed_tokens", "local_encoder.tok_embeddings", f"{_ENCODER}.embed_tokens", has_mask=True),
    WeightName(
        "model.encoder.hash_embedding.table", "encoder_hash_tok_embedding.{h}", "model.encoder_hash_tok_embedding"
    ),
    *_each(WeightName("model.encoder.layers.{i}", "local_encoder.layers.{i}", f"{_ENCODER}.layers.{{i}}"), LAYER),
    WeightName(
        "model.encoder.slot_projection",
        "local_encoder.patch_embedding_projection",
        f"{_ENCODER}.patch_embedding_projection",
    ),
    *_each(
        WeightName(
            "model.encoder.earlier_poolings.{i}",
            "local_encoder.cross_attn_layers.{i}",
            f"{_ENCODER}.cross_attn_layers.{{i}}",
        ),
        CROSS_ATTENTION,
    ),
    *_each(
        WeightName(
            "model.encoder.pooling",
            "local_encoder.cross_attn_layers.{last}",
            f"{_ENCODER}.cross_attn_layers.{{last}}",
        ),
        CROSS_ATTENTION,
    ),
    WeightName(
        "model.global_transformer.patch_projection",
        "global_transformer.token_embedding_projection",
        f"{_GLOBAL}.token_embedding_projection",
    ),
    *_each(
        WeightName("model.global_transformer.layers.{i}", "global_transformer.layers.{i}", f"{_GLOBAL}.layers.{{i}}"),
        LAYER,
    ),
    WeightName(
        "model.decoder.latent_projection",
        "local_decoder.patch_embedding_projection",
        f"{_DECODER}.patch_embedding_projection",
    ),
    *_each(WeightName("model.decoder.layers.{i}", "local_decoder.layers.{i}", f"{_DECODER}.layers.{{i}}"), LAYER),
    *_each(
        WeightName(
            "model.decoder.readers.{i}", "local_decoder.cross_attn_layers.{i}", f"{_DECODER}.cross_attn_layers.{{i}}"
        ),
        CROSS_ATTENTION,
    ),
    WeightName("model.decoder.norm", "local_decoder.norm", f"{_DECODER}.norm"),
    WeightName("lm_head", "local_decoder.output", "lm_head", has_mask=True),
)

# FBLT tensors that no BLT has, and what they are.
WITHOUT_COUNTERPART = {
    r"model\.decoder\.embed_tokens\.weight": "the decoder's own byte table, which only blocks use",
    r"draft_head\..*": "a part of the draft head, which fills in blocks",
}

# Keys, as regular expressions, that carry no weights of the model.
IGNORED = {
    META: {
        r"(.*[./])?rope\.freqs_cis": "a table of rotary angles, which is computed",
    },
    TRANSFORMERS: {
        r".*rotary_emb\.(original_)?inv_freq": "a table of rotary angles, which is computed",
    },
}


@dataclass(frozen=True)
class Link:
    """One FBLT tensor and the tensors of another scheme that hold the same numbers.

    Attributes:
        fblt: FBLT's key.
        keys: the other scheme's; several lie end to end in FBLT's tensor.
        shape: FBLT's shape.
        has_mask: FBLT's has one entry more, for `<mask>`.
    """

    fblt: str
    keys: tuple[str, ...]
    shape: Shape
    has_mask: bool

    @property
    def part_shape(self) -> Shape:
        """Shape of each of `keys`."""
        entries, *rest = self.shape
        return ((entries - self.has_mask) // len(self.keys), *rest)


def links(shapes: dict[str, Shape], scheme: str, hash_tables: int, last_pooling: int) -> list[Link]:
    """The table for one model.

    Args:
        shapes: every tensor of the FBLT model; what it does not have is left out.
        scheme: `"meta"` or `"transformers"`.
        hash_tables: how many (function, size) pairs the model hashes.
        last_pooling: number of the encoder's last cross-attention layer in the scheme.
    """
    found = []
    for name in TABLE:
        for i in count():
            fblt = name.fblt.format(i=i) + ".weight"
            if fblt not in shapes:
                break
            template = getattr(name, scheme) + ".weight"
            tables = range(hash_tables) if "{h}" in template else (0,)
            keys = tuple(template.format(i=i, h=h, last=last_pooling) for h in tables)
            found.append(Link(fblt, keys, shapes[fblt], name.has_mask))
            if "{i}" not in name.fblt:
                break
    return found
