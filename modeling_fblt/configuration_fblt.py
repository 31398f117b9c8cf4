# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Configuration of FBLT: one top-level config and one sub-config per network.

Sizes that follow from others, such as a latent's width, are worked out when the model is built and never stored: so a
config that is edited after loading cannot contradict itself. The one exception is a network's head size, which
transformers' rotary embeddings read from the config.
"""

from typing import Any, ClassVar

from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

PAD_ID, BOS_ID, EOS_ID, RESERVED_ID = 0, 1, 2, 3
BYTE_OFFSET = 4  # byte b has id b + 4
MASK_ID = 260
VOCAB_SIZE = 261

PATCHING_MODES = ("entropy", "static", "space")
CORRUPTIONS = ("uniform", "per_block", "prefix", "draft")
DECODER_INPUTS = ("embedding", "encoder")
# Frequencies of these depend on the length of the text so far: keys that a cache holds would have been turned by others
# than a full pass turns them by, and verified decoding would not write what plain decoding writes.
LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


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

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
            _check(getattr(self, name) > 0, f"{self.model_type}.{name}", getattr(self, name), "give a positive integer")
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
                self.head_dim > 0 and self.head_dim % 2 == 0,
                f"{self.model_type}.head_dim",
                self.head_dim,
                "RoPE needs an even head size",
            )
        self._check_groups("num_attention_heads", "num_key_value_heads")
        self.check_rope()

    def check_rope(self) -> None:
        """Raises a ValueError for rotary embeddings that decoding could not be exact with."""
        rope_type = self.rope_parameters["rope_type"]
        _check(
            rope_type not in LENGTH_DEPENDENT_ROPE,
            f"{self.model_type}.rope_parameters['rope_type']",
            rope_type,
            "its frequencies change as a text grows, so that cached keys and a full pass would differ; choose 'yarn', "
            "'llama3' or 'linear', whose frequencies are fixed",
        )

    def _check_groups(self, heads_name: str, groups_name: str) -> None:
        heads, groups = getattr(self, heads_name), getattr(self, groups_name)
        _check(
            groups is None or (groups > 0 and heads % groups == 0),
            f"{self.model_type}.{groups_name}",
            groups,
            f"give a divisor of {heads_name} = {heads}, or None",
        )


class _LocalConfig(_TransformerConfig):
    """A network over bytes: it attends to a window of `sliding_window` bytes, itself included."""

    vocab_size: int = VOCAB_SIZE
    sliding_window: int = 512

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        _check(
            self.sliding_window > 0, f"{self.model_type}.sliding_window", self.sliding_window, "give at least 1 byte"
        )


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

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        heads = self.cross_attn_num_heads
        _check(
            heads is None or (heads > 0 and self.hidden_size % heads == 0),
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

    def __post_init__(self, **kwargs):
        if self.hash_ngram_sizes is None:
            self.hash_ngram_sizes = [3, 4, 5, 6, 7, 8]
        self.hash_ngram_sizes = list(self.hash_ngram_sizes)
        super().__post_init__(**kwargs)
        _check(
            all(n > 1 for n in self.hash_ngram_sizes),
            "fblt_encoder.hash_ngram_sizes",
            self.hash_ngram_sizes,
            "give n-gram lengths of at least 2 bytes",
        )
        _check(
            0 <= self.hash_functions <= 11, "fblt_encoder.hash_functions", self.hash_functions, "BLT defines 11 primes"
        )


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

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        _check(self.input in DECODER_INPUTS, "fblt_decoder.input", self.input, f"choose one of {DECODER_INPUTS}")


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

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        name = self.model_type
        _check(self.hidden_size > 0, f"{name}.hidden_size", self.hidden_size, "give a positive integer")
        _check(0 <= self.distillation <= 1, f"{name}.distillation", self.distillation, "give a share between 0 and 1")
        _check(self.loss_decay > 0, f"{name}.loss_decay", self.loss_decay, "give a positive number of bytes")


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

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        self._validate_fields()

    def _validate_fields(self) -> None:
        choices = {"patching_mode": PATCHING_MODES, "corruption": CORRUPTIONS}
        for name, allowed in choices.items():
            _check(getattr(self, name) in allowed, name, getattr(self, name), f"choose one of {allowed}")
        for name in ("draft_fraction", "random_anchor_fraction", "distillation"):
            _check(0.0 <= getattr(self, name) <= 1.0, name, getattr(self, name), "give a share between 0 and 1")
        _check(0.0 < self.block_fraction <= 1.0, "block_fraction", self.block_fraction, "give a share in (0, 1]")
        for name in ("cross_attn_k", "patch_size"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "give an integer of at least 1")
        _check(0.0 < self.diffusion_t_min < 1.0, "diffusion_t_min", self.diffusion_t_min, "give a value in (0, 1)")
        for name in ("diffusion_loss_weight", "draft_head_loss_weight"):
            _check(getattr(self, name) >= 0.0, name, getattr(self, name), "give 0 or more")
        _check(
            self.max_patch_length is None or self.max_patch_length >= 1,
            "max_patch_length",
            self.max_patch_length,
            "give at least 1 byte, or None for no limit",
        )
        window = self.decoder_config.sliding_window
        _check(
            self.block_size is None or 2 <= self.block_size <= window,
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
