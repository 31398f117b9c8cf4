# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Which tensor is which: one table of key templates, a column per naming scheme, read in both directions.

Every key ends in `.weight`, which the table leaves out. `{i}` counts modules; `{last}` is the pooling after the last
encoder layer; a key with `{h}` stands for the hash tables, which lie end to end in FBLT's one tensor. Meta keeps the
entropy model in files of its own: its keys carry the prefix `entropy_model/` here.
"""

from dataclasses import dataclass
from itertools import count

Shape = tuple[int, ...]

META, TRANSFORMERS = "meta", "transformers"
ENTROPY_PREFIX = "entropy_model/"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        fblt, meta, transformers: the tensor's key in each scheme.
        mask_row: FBLT's tensor has one row more than BLT's, that of `<mask>`.
    """

    fblt: str
    meta: str
    transformers: str
    mask_row: bool = False


LAYER = (
    Row("attention_norm", "attention_norm", "input_layernorm"),
    Row("attention.q_proj", "attention.wq", "self_attn.q_proj"),
    Row("attention.k_proj", "attention.wk", "self_attn.k_proj"),
    Row("attention.v_proj", "attention.wv", "self_attn.v_proj"),
    Row("attention.o_proj", "attention.wo", "self_attn.o_proj"),
    Row("feed_forward_norm", "ffn_norm", "post_attention_layernorm"),
    Row("feed_forward.gate_proj", "feed_forward.w1", "mlp.gate_proj"),
    Row("feed_forward.up_proj", "feed_forward.w3", "mlp.up_proj"),
    Row("feed_forward.down_proj", "feed_forward.w2", "mlp.down_proj"),
)
CROSS_ATTENTION = (
    Row("query_norm", "cross_attn_norm_q", "q_norm"),
    Row("key_norm", "cross_attn_norm_kv", "k_norm"),
    Row("q_proj", "wq", "q_proj"),
    Row("k_proj", "wk", "k_proj"),
    Row("v_proj", "wv", "v_proj"),
    Row("o_proj", "wo", "o_proj"),
)


def _each(module: Row, parts: tuple[Row, ...]) -> list[Row]:
    """The tensors of a module: its key in each scheme, continued by those of its parts."""
    names = ("fblt", "meta", "transformers")
    return [Row(*(f"{getattr(module, name)}.{getattr(part, name)}" for name in names)) for part in parts]


_ENCODER, _DECODER, _GLOBAL = "model.local_encoder", "model.local_decoder", "model.global_transformer"

TABLE: tuple[Row, ...] = (
    Row("model.patcher.embed_tokens", "entropy_model/tok_embeddings", "model.patcher.embed_tokens", mask_row=True),
    *_each(Row("model.patcher.layers.{i}", "entropy_model/layers.{i}", "model.patcher.layers.{i}"), LAYER),
    Row("model.patcher.norm", "entropy_model/norm", "model.patcher.norm"),
    Row("model.patcher.lm_head", "entropy_model/output", "model.patcher.lm_head"),
    Row("model.encoder.embed_tokens", "local_encoder.tok_embeddings", f"{_ENCODER}.embed_tokens", mask_row=True),
    Row("model.encoder.hash_embedding.table", "encoder_hash_tok_embedding.{h}", "model.encoder_hash_tok_embedding"),
    *_each(Row("model.encoder.layers.{i}", "local_encoder.layers.{i}", f"{_ENCODER}.layers.{{i}}"), LAYER),
    Row(
        "model.encoder.slot_projection",
        "local_encoder.patch_embedding_projection",
        f"{_ENCODER}.patch_embedding_projection",
    ),
    *_each(
        Row(
            "model.encoder.earlier_poolings.{i}",
            "local_encoder.cross_attn_layers.{i}",
            f"{_ENCODER}.cross_attn_layers.{{i}}",
        ),
        CROSS_ATTENTION,
    ),
    *_each(
        Row(
            "model.encoder.pooling",
            "local_encoder.cross_attn_layers.{last}",
            f"{_ENCODER}.cross_attn_layers.{{last}}",
        ),
        CROSS_ATTENTION,
    ),
    Row(
        "model.global_transformer.patch_projection",
        "global_transformer.token_embedding_projection",
        f"{_GLOBAL}.token_embedding_projection",
    ),
    *_each(
        Row("model.global_transformer.layers.{i}", "global_transformer.layers.{i}", f"{_GLOBAL}.layers.{{i}}"), LAYER
    ),
    Row(
        "model.decoder.latent_projection",
        "local_decoder.patch_embedding_projection",
        f"{_DECODER}.patch_embedding_projection",
    ),
    *_each(Row("model.decoder.layers.{i}", "local_decoder.layers.{i}", f"{_DECODER}.layers.{{i}}"), LAYER),
    *_each(
        Row("model.decoder.readers.{i}", "local_decoder.cross_attn_layers.{i}", f"{_DECODER}.cross_attn_layers.{{i}}"),
        CROSS_ATTENTION,
    ),
    Row("model.decoder.norm", "local_decoder.norm", f"{_DECODER}.norm"),
    Row("lm_head", "local_decoder.output", "lm_head", mask_row=True),
)

# FBLT tensors that no BLT has, and what they are.
WITHOUT_COUNTERPART = {"model.decoder.embed_tokens.weight": "the decoder's own byte table, which only blocks use"}

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
        mask_row: FBLT's has one row more.
    """

    fblt: str
    keys: tuple[str, ...]
    shape: Shape
    mask_row: bool

    @property
    def part_shape(self) -> Shape:
        """Shape of each of `keys`."""
        rows, *rest = self.shape
        return ((rows - self.mask_row) // len(self.keys), *rest)


def links(shapes: dict[str, Shape], scheme: str, hash_tables: int, last_pooling: int) -> list[Link]:
    """The table for one model.

    Args:
        shapes: every tensor of the FBLT model; what it does not have is left out.
        scheme: `"meta"` or `"transformers"`.
        hash_tables: how many (function, size) pairs the model hashes.
        last_pooling: number of the encoder's last cross-attention layer in the scheme.
    """
    found = []
    for row in TABLE:
        for i in count():
            fblt = row.fblt.format(i=i) + ".weight"
            if fblt not in shapes:
                break
            template = getattr(row, scheme) + ".weight"
            tables = range(hash_tables) if "{h}" in template else (0,)
            keys = tuple(template.format(i=i, h=h, last=last_pooling) for h in tables)
            found.append(Link(fblt, keys, shapes[fblt], row.mask_row))
            if "{i}" not in row.fblt:
                break
    return found
