# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Configuration of FBLT: one top-level config and one sub-config per network.

Sizes that follow from others, such as a latent's width, are worked out when the model is built and never stored: so a
config that is edited after loading cannot contradict itself. The one exception is a network's head size, which
transformers' rotary embeddings read from the config.
"""

import math
from typing import Any, ClassVar

from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .fields_fblt import Rule, any_of, between, check_fields, choice, dtype, flag, number, whole, whole_list
from .rope_check_fblt import check_rope_parameters

PAD_ID, BOS_ID, EOS_ID, RESERVED_ID = 0, 1, 2, 3
BYTE_OFFSET = 4  # byte b has id b + 4
MASK_ID = 260
VOCAB_SIZE = 261

PATCHING_MODES = ("entropy", "static", "space")
CORRUPTIONS = ("uniform", "per_block", "prefix", "draft")
DECODER_INPUTS = ("embedding", "encoder")
# Bounds of sizes: far above any BLT, far below what would exhaust a machine while a model is laid out.
MOST_LAYERS, MOST_HEADS, WIDEST, WIDEST_INSIDE, WIDEST_HEAD = 1000, 1 << 12, 1 << 16, 1 << 19, 1 << 13
LONGEST, MOST_HASH_ROWS = 1 << 40, 1 << 28
SHARE, POSITIVE_WEIGHT, BYTES, DTYPE = number(0, 1), number(0, math.inf), whole(1, 1 << 20), dtype()


def _check(condition: bool, name: str, value: Any, remedy: str) -> None:
    if not condition:
        raise ValueError(f"`{name}` is {value!r}: {remedy}.")


class _TransformerConfig(PreTrainedConfig):
    """What the four networks share: a pre-norm transformer with RoPE on interleaved pairs and SwiGLU.

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: the usual sizes.
        num_key_value_heads: heads of keys and values, each shared by a group of query heads; as many as query heads
            when None.
        head_dim: width of a head; `hidden_size / num_attention_heads`, filled in, when None.
        rms_norm_eps: epsilon of every RMSNorm.
        rope_parameters: RoPE settings in transformers' form; `default_theta` when absent. The types are `"default"`,
            `"linear"`, `"yarn"`, `"llama3"` and `"proportional"`; those whose frequencies change with the length of the
            text are refused.
        max_position_embeddings: length, in bytes or patches, that scaled RoPE types refer to; plain RoPE has no limit.
        residual_init_scale: standard deviation of matrices that write to the residual stream, in units
            of `1 / sqrt(fan_in)`. Below 1 a fresh model starts near the identity.
    """

    default_theta = 500000.0

    hidden_size: int = 1024
    num_hidden_layers: int = 1
    num_attention_heads: int = 16
    intermediate_size: int = 2816
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rms_norm_eps: float = 1e-5
    rope_parameters: dict | None = None
    max_position_embeddings: int = 8192
    residual_init_scale: float = 1.0
    tie_word_embeddings: bool = False

    rules: ClassVar[dict[str, Rule]] = {
        "hidden_size": whole(1, WIDEST),
        "num_hidden_layers": whole(1, MOST_LAYERS),
        "num_attention_heads": whole(1, MOST_HEADS),
        "intermediate_size": whole(1, WIDEST_INSIDE),
        "num_key_value_heads": whole(1, MOST_HEADS, None),
        "head_dim": whole(1, WIDEST_HEAD, None),
        "rms_norm_eps": number(0, 1),
        "max_position_embeddings": whole(1, LONGEST),
        "residual_init_scale": POSITIVE_WEIGHT,
        "tie_word_embeddings": choice(False),
    }

    def __post_init__(self, **kwargs):
        rope = self.rope_parameters
        _check(
            rope is None or isinstance(rope, dict), f"{self.model_type}.rope_parameters", rope, "give a dict or None"
        )
        DTYPE.refuse(f"{self.model_type}.dtype", self.dtype)  # before transformers looks the name up
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raises a ValueError for a field that the network cannot express; the message names it and the remedy."""
        check_fields(vars(self), self.rules, f"{self.model_type}.")
        if self.head_dim is None:
            _check(
                self.hidden_size % (2 * self.num_attention_heads) == 0,
                f"{self.model_type}.hidden_size",
                self.hidden_size,
                f"RoPE needs even heads: give a multiple of 2 * num_attention_heads = {2 * self.num_attention_heads}",
            )
            self.head_dim = self.hidden_size // self.num_attention_heads
        else:
            _check(
                self.head_dim % 2 == 0,
                f"{self.model_type}.head_dim",
                self.head_dim,
                "RoPE needs an even head size",
            )
        self._check_groups("num_attention_heads", "num_key_value_heads")
        check_rope_parameters(self.rope_parameters, f"{self.model_type}.rope_parameters")

    def _check_groups(self, heads_name: str, groups_name: str) -> None:
        heads, groups = getattr(self, heads_name), getattr(self, groups_name)
        _check(
            groups is None or heads % groups == 0,
            f"{self.model_type}.{groups_name}",
            groups,
            f"give a divisor of {heads_name} = {heads}, or None",
        )


class _LocalConfig(_TransformerConfig):
    """A network over bytes: it attends to a window of `sliding_window` bytes, itself included."""

    vocab_size: int = VOCAB_SIZE
    sliding_window: int = 512

    rules: ClassVar[dict[str, Rule]] = {
        **_TransformerConfig.rules,
        "vocab_size": choice(VOCAB_SIZE),
        "sliding_window": whole(1, LONGEST),
    }


class FBLTPatcherConfig(_LocalConfig):
    """The entropy model: a small causal byte transformer, frozen while the rest trains."""

    model_type = "fblt_patcher"
    default_theta = 10000.0

    hidden_size: int = 768
    num_hidden_layers: int = 14
    num_attention_heads: int = 12
    intermediate_size: int = 2048


class _CrossAttendingConfig(_LocalConfig):
    """A network with cross-attention between bytes and patches.

    Args:
        cross_attn_num_heads: its heads; `num_attention_heads` when None.
        cross_attn_num_key_value_heads: its heads of keys and values; as many when None.
        cross_attn_all_layers: whether every layer has one. If not, the encoder has one after its last layer, the
            decoder one before its first.
    """

    cross_attn_num_heads: int | None = None
    cross_attn_num_key_value_heads: int | None = None
    cross_attn_all_layers: bool = False

    rules: ClassVar[dict[str, Rule]] = {
        **_LocalConfig.rules,
        "cross_attn_num_heads": whole(1, MOST_HEADS, None),
        "cross_attn_num_key_value_heads": whole(1, MOST_HEADS, None),
        "cross_attn_all_layers": flag(),
    }

    def check(self) -> None:
        super().check()
        heads = self.cross_attn_num_heads
        _check(
            heads is None or self.hidden_size % heads == 0,
            f"{self.model_type}.cross_attn_num_heads",
            heads,
            f"give a divisor of hidden_size = {self.hidden_size}, or None",
        )
        name = "num_attention_heads" if heads is None else "cross_attn_num_heads"
        _check(
            self.hidden_size % getattr(self, name) == 0,
            f"{self.model_type}.{name}",
            getattr(self, name),
            "cross-attention needs a divisor of hidden_size; give cross_attn_num_heads",
        )
        self._check_groups(name, "cross_attn_num_key_value_heads")


class FBLTEncoderConfig(_CrossAttendingConfig):
    """The local encoder: byte and hash n-gram embeddings, a windowed transformer, pooling into patches.

    With `cross_attn_all_layers`, patches are pooled from the first layer's states and refined by every layer's.

    Args:
        hash_ngram_sizes: lengths, in bytes, of the n-grams that are hashed into embeddings.
        hash_functions: hash functions per n-gram length.
        hash_vocab_size: rows of the embedding table of each (function, length) pair.
    """

    model_type = "fblt_encoder"

    hash_ngram_sizes: list[int] | None = None
    hash_functions: int = 1
    hash_vocab_size: int = 500002

    rules: ClassVar[dict[str, Rule]] = {
        **_CrossAttendingConfig.rules,
        "hash_ngram_sizes": whole_list(2, 64, 64),
        "hash_functions": whole(0, 11),  # BLT defines so many primes
        "hash_vocab_size": whole(1, MOST_HASH_ROWS),
    }

    def __post_init__(self, **kwargs):
        if self.hash_ngram_sizes is None:
            self.hash_ngram_sizes = [3, 4, 5, 6, 7, 8]
        super().__post_init__(**kwargs)
        self.hash_ngram_sizes = list(self.hash_ngram_sizes)


class FBLTGlobalConfig(_TransformerConfig):
    """The global transformer over patches, causal within a document."""

    model_type = "fblt_global"

    hidden_size: int = 2048
    num_hidden_layers: int = 25
    num_attention_heads: int = 16
    intermediate_size: int = 5632


class FBLTDecoderConfig(_CrossAttendingConfig):
    """The local decoder.

    Args:
        input: what clean bytes enter as: `"embedding"` (Fast BLT: the decoder's own byte table) or `"encoder"`
            (BLT: the encoder's byte states; block bytes still use the byte table).
    """

    model_type = "fblt_decoder"

    num_hidden_layers: int = 9
    cross_attn_all_layers: bool = True
    input: str = "embedding"

    rules: ClassVar[dict[str, Rule]] = {**_CrossAttendingConfig.rules, "input": choice(*DECODER_INPUTS)}


class FBLTDraftHeadConfig(PreTrainedConfig):
    """The draft head: a recurrent cell that goes over a block from left to right and corrects its logits.

    Args:
        hidden_size: width of the cell's state.
        distillation: share of its loss that is the divergence from the model's own next-byte distribution
            (stop-gradient) instead of the negative log-likelihood of the byte.
        loss_decay: the loss of a masked byte has the weight `exp(-k / loss_decay)` if `k` masked bytes stand before it
            in its block: later bytes matter only where all earlier ones are right.
    """

    model_type = "fblt_draft_head"

    vocab_size: int = VOCAB_SIZE
    hidden_size: int = 128
    distillation: float = 1.0
    loss_decay: float = 4.0

    rules: ClassVar[dict[str, Rule]] = {
        "vocab_size": choice(VOCAB_SIZE),
        "hidden_size": whole(1, WIDEST),
        "distillation": SHARE,
        "loss_decay": between(0, math.inf),
    }

    def __post_init__(self, **kwargs):
        DTYPE.refuse(f"{self.model_type}.dtype", self.dtype)
        super().__post_init__(**kwargs)
        self.check()

    def check(self) -> None:
        """Raises a ValueError for a field that the head cannot express; the message names it and the remedy."""
        check_fields(vars(self), self.rules, f"{self.model_type}.")


class FBLTConfig(PreTrainedConfig):
    r"""
    Configuration of [`FBLTForCausalLM`]. The defaults are the paper's 1B geometry and objective.

    Args:
        patcher_config, encoder_config, global_config, decoder_config: sub-configs, or dicts of their fields.
        draft_head_config: the draft head's, likewise; None for weights without one. It needs a `block_size`.
        cross_attn_k (`int`): slots of encoder width that a patch is pooled into, and slots of decoder width
            that a latent is split into.
        patching_mode (`str`): `"entropy"` (the patcher decides), `"static"` (every `patch_size` bytes) or `"space"`.
        patching_threshold (`float`): a patch starts after a byte whose next-byte entropy, in nats, exceeds it.
        patch_size (`int`): patch length, in bytes, of static patching.
        max_patch_length (`int`, *optional*): longer patches are cut every so many bytes; `None` for no limit.
        isolate_documents (`bool`): the byte after `</s>` starts afresh, so packed documents equal documents alone.
            False for converted BLT weights.
        block_size (`int`, *optional*): bytes of a diffusion block that the model was trained for; `None` for a
            plain BLT, which cannot draft blocks.
        diffusion_loss_weight (`float`): weight of the block loss beside the next-byte loss.
        diffusion_t_min (`float`): smallest masking probability drawn; bounds the 1/t weight.
        corruption (`str`): what is masked in blocks. `"uniform"`: one masking probability `t` per sequence and the
            weight 1/t, the paper's bound on the likelihood. `"per_block"`: a `t` of its own for every block, so that
            a step does not depend on one draw. `"prefix"`: the first bytes known, all others masked, weight 1, which is
            what one-step drafting asks for. `"draft"`: a mixture of `"prefix"` and `"per_block"`, for drafts that are
            unmasked in one step or in several.
        draft_fraction (`float`): share of `"prefix"` blocks under `"draft"`.
        block_fraction (`float`): share of patches whose block is trained in a step, drawn at random; below 1 a step is
            cheaper, and the loss keeps its expectation.
        random_anchor_fraction (`float`): share of blocks that begin at a random byte instead of a patch start. The
            paper's blocks all begin at patch starts (0). Decoding drafts from wherever the last byte was accepted, so
            models that are to draft should see some of both.
        distillation (`float`): share of the block loss that is the divergence from the model's own next-byte
            distribution (stop-gradient) instead of the negative log-likelihood of the byte: a softer target, which is
            also what verification compares drafts with.
        draft_head_loss_weight (`float`): weight of the draft head's loss, where there is a head. It reaches the decoder
            too; the block's own logits keep their own loss.

    Raises:
        ValueError: a field has a value that the model cannot express; the message names field, value and remedy.
    """

    model_type = "fblt"
    keys_to_ignore_at_inference: ClassVar[list[str]] = [
        "past_key_values",
        "cache",
        "next_byte_loss",
        "diffusion_loss",
        "draft_head_loss",
    ]
    sub_configs_defaults: ClassVar[dict] = {
        "patcher_config": FBLTPatcherConfig,
        "encoder_config": FBLTEncoderConfig,
        "global_config": FBLTGlobalConfig,
        "decoder_config": FBLTDecoderConfig,
        "draft_head_config": SubConfigSpec(FBLTDraftHeadConfig, optional=True),
    }
    base_model_fsdp_plan: ClassVar[dict] = {
        "encoder.layers.*": "free_full_weight",
        "global_transformer.layers.*": "free_full_weight",
        "decoder.layers.*": "free_full_weight",
        "decoder.norm": "keep_full_weight",
    }

    vocab_size: int = VOCAB_SIZE
    cross_attn_k: int = 2
    patching_mode: str = "entropy"
    patching_threshold: float = 1.335442066192627
    patch_size: int = 4
    max_patch_length: int | None = 8
    isolate_documents: bool = True
    block_size: int | None = None
    diffusion_loss_weight: float = 1.0
    diffusion_t_min: float = 1e-3
    corruption: str = "uniform"
    draft_fraction: float = 0.8
    block_fraction: float = 1.0
    random_anchor_fraction: float = 0.0
    distillation: float = 0.0
    draft_head_loss_weight: float = 1.0
    patcher_config: dict | PreTrainedConfig | None = None
    encoder_config: dict | PreTrainedConfig | None = None
    global_config: dict | PreTrainedConfig | None = None
    decoder_config: dict | PreTrainedConfig | None = None
    draft_head_config: dict | PreTrainedConfig | None = None
    pad_token_id: int | None = PAD_ID
    bos_token_id: int | None = BOS_ID
    eos_token_id: int | list[int] | None = EOS_ID
    mask_token_id: int | None = MASK_ID
    use_cache: bool = True
    tie_word_embeddings: bool = False

    rules: ClassVar[dict[str, Rule]] = {
        "vocab_size": choice(VOCAB_SIZE),
        "cross_attn_k": whole(1, 256),
        "patching_mode": choice(*PATCHING_MODES),
        "patching_threshold": number(-math.inf, math.inf),
        "patch_size": BYTES,
        "max_patch_length": whole(1, 1 << 20, None),
        "isolate_documents": flag(),
        "block_size": whole(2, LONGEST, None),
        "diffusion_loss_weight": POSITIVE_WEIGHT,
        "diffusion_t_min": between(0, 1),
        "corruption": choice(*CORRUPTIONS),
        "draft_fraction": SHARE,
        "block_fraction": any_of(between(0, 1), number(1, 1)),
        "random_anchor_fraction": SHARE,
        "distillation": SHARE,
        "draft_head_loss_weight": POSITIVE_WEIGHT,
        # A byte's id as padding would take that byte out of every text.
        "pad_token_id": whole(0, BYTE_OFFSET - 1, None),
        "bos_token_id": whole(0, MASK_ID - 1, None),
        "eos_token_id": any_of(whole(0, MASK_ID, None), whole_list(0, MASK_ID, VOCAB_SIZE, shortest=1)),
        "mask_token_id": choice(MASK_ID),
        "use_cache": flag(),
        "tie_word_embeddings": choice(False),
    }

    def __post_init__(self, **kwargs):
        DTYPE.refuse("dtype", self.dtype)
        _check("hidden_size" not in kwargs, "hidden_size", kwargs.get("hidden_size"), "give it in a network's config")
        super().__post_init__(**kwargs)
        self.check()

    @classmethod
    def _dict_from_json_file(cls, json_file):
        found = super()._dict_from_json_file(json_file)
        if not isinstance(found, dict):
            raise ValueError(f"`config.json` {str(json_file)!r} holds no JSON object: fetch it anew.")
        return found

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As in other configs. `kwargs` change fields, as those of a `from_pretrained` do; the whole is checked then.

        Raises:
            ValueError: a field that the model cannot express, or a block longer than the weights were trained for.
        """
        trained, asked = config_dict.get("block_size"), kwargs.get("block_size")
        _check(
            trained is None or not isinstance(asked, int) or asked <= trained,
            "block_size",
            asked,
            f"the weights were trained for blocks of {trained} bytes; to train them for longer ones, load them and set "
            "`model.config.block_size`",
        )
        made = super().from_dict(config_dict, **kwargs)
        (made[0] if isinstance(made, tuple) else made).check()
        return made

    def check(self) -> None:
        """Raises a ValueError for a field that the model cannot express, in this config or a part of it; the message
        names field, value and remedy.
        """
        check_fields(vars(self), self.rules)
        for part in (self.patcher_config, self.encoder_config, self.global_config, self.decoder_config):
            part.check()
        if self.draft_head_config is not None:
            self.draft_head_config.check()
        window = self.decoder_config.sliding_window
        _check(
            self.block_size is None or self.block_size <= window,
            "block_size",
            self.block_size,
            f"give 2 .. decoder_config.sliding_window ({window}) bytes, or None for a model without a block head",
        )
        _check(
            self.draft_head_config is None or self.block_size is not None,
            "draft_head_config",
            self.draft_head_config,
            "a draft head fills in blocks; give a block_size too, or None for a model without a head",
        )
        _check(
            self.decoder_config.input == "embedding"
            or self.decoder_config.hidden_size == self.encoder_config.hidden_size,
            "decoder_config.input",
            self.decoder_config.input,
            "encoder states can enter the decoder only where both have one hidden_size; use 'embedding'",
        )

    # Generic code reads these at the top level; they are the byte decoder's. Not so `rope_parameters`: each network has
    # its own, three of them for bytes and one for patches, so that no single value says what they are.
    @property
    def hidden_size(self) -> int:
        return self.decoder_config.hidden_size

    @hidden_size.setter
    def hidden_size(self, value: int) -> None:
        self.decoder_config.hidden_size = value
        self.decoder_config.check()

    @property
    def max_position_embeddings(self) -> int:
        """Bytes of text that generic code may plan with, such as the context of an evaluation. No limit: positions are
        rotary, byte networks look back over a window, and a longer text is neither refused nor cut.
        """
        return self.decoder_config.max_position_embeddings

    @max_position_embeddings.setter
    def max_position_embeddings(self, value: int) -> None:
        self.decoder_config.max_position_embeddings = value

    @property
    def num_hidden_layers(self) -> int:
        return self.decoder_config.num_hidden_layers

    @property
    def num_attention_heads(self) -> int:
        return self.decoder_config.num_attention_heads


__all__ = [
    "FBLTConfig",
    "FBLTDecoderConfig",
    "FBLTDraftHeadConfig",
    "FBLTEncoderConfig",
    "FBLTGlobalConfig",
    "FBLTPatcherConfig",
]
