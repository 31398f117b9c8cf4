# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The four networks, each a model of its own: patcher, encoder, global transformer, decoder.

Each is called on a chunk of new positions and an attention context, which says what these may see.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .attention_fblt import AttentionContext, CachedContext, SquareContext, TiledContext
from .chunk_fblt import Chunk
from .compatibility_fblt import NEW_NAME, OLD_NAME
from .configuration_fblt import (
    VOCAB_SIZE,
    FBLTConfig,
    FBLTDecoderConfig,
    FBLTEncoderConfig,
    FBLTGlobalConfig,
    FBLTPatcherConfig,
)
from .counting_fblt import counting, scalar
from .hash_embedding_fblt import FBLTHashEmbedding
from .layers_fblt import (
    FBLTLatentReading,
    FBLTLayer,
    FBLTPooling,
    FBLTRMSNorm,
    FBLTRotaryEmbedding,
    at_least_float32,
    embedding,
    linear,
)
from .loading_fblt import check_fresh, check_loaded
from .masks_fblt import last_keys, windowed_causal, within_document

if TYPE_CHECKING:
    from .recorder_fblt import DecoderRecorder


class FBLTPreTrainedModel(PreTrainedModel):
    config_class = FBLTConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["FBLTLayer"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_flash_attn = False
    _supports_attention_backend = False
    _can_compile_fullgraph = False
    # Attention has windows and documents, which context parallelism cannot express.
    _supports_context_parallel = False
    _skip_keys_device_placement = [OLD_NAME, NEW_NAME]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info: bool = False, **kwargs):
        """As in other models; but weights that are not those of the config are refused.

        Raises:
            ValueError: weights are missing, or layers would be left out, or have other shapes.
        """
        source = pretrained_model_name_or_path
        try:
            model, info = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
        except RuntimeError as error:
            if "mismatch" not in str(error):
                raise
            raise ValueError(
                f"`pretrained_model_name_or_path` {str(source)!r} has weights of other shapes than its config says: "
                f"give the config that they were saved with. {error}"
            ) from error
        if not getattr(model, "_hf_peft_config_loaded", False):  # then the report is of the adapter
            check_loaded(model, source, set(info["missing_keys"]), set(info["unexpected_keys"]))
        return (model, info) if output_loading_info else model

    def _move_missing_keys_from_meta_to_device(self, missing_keys, *args, **kwargs):
        check_fresh(self, missing_keys)
        return super()._move_missing_keys_from_meta_to_device(missing_keys, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.GRUCell):
            for weight in module.parameters():
                init.uniform_(weight, -(module.hidden_size**-0.5), module.hidden_size**-0.5)
        std = getattr(module, "init_std", None)
        if std == 0:
            init.zeros_(module.weight)
        elif std is not None:
            init.trunc_normal_(module.weight, mean=0.0, std=std, a=-3 * std, b=3 * std)
        if isinstance(module, FBLTHashEmbedding):
            module.fill_constants()

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Callers fit a model to a tokenizer by it: to that of this vocabulary it is fitted.

        Raises:
            ValueError: another size is asked for.
        """
        if new_num_tokens not in (None, VOCAB_SIZE) or (pad_to_multiple_of or 1) > 1:
            raise ValueError(
                f"`new_num_tokens` is {new_num_tokens}: the vocabulary of FBLT is 256 bytes and five special ids, "
                f"{VOCAB_SIZE} in all, and cannot be resized. Add no tokens: spell them as bytes, as the tokenizer's "
                "chat template spells turns."
            )
        return self.get_input_embeddings()


def local_context(config, stores, chunk: Chunk) -> AttentionContext:
    """Windowed causal attention of a byte network over a chunk, with or without a cache."""
    window, n, cache = config.sliding_window, chunk.ids.shape[1], chunk.cache
    if cache is not None and cache.compiles(n):
        query, document = chunk.positions[:, :, None], chunk.document_start[:, :n, None]
        return cache.fixed_context(
            stores, window, chunk.column, n, lambda key: windowed_causal(query, key, document, window)
        )
    if cache is None and n > 2 * window:
        return TiledContext(chunk.document_start[:, :n], window)
    square, span = chunk.squares.get(window) or _square(chunk, window)
    chunk.squares[window] = square, span
    if cache is None:
        return square
    return CachedContext(stores, [(slice(None), chunk.column)], cache.max_column + n, square, span)


def _square(chunk: Chunk, window: int) -> tuple[SquareContext, tuple[int, int] | None]:
    """The mask of a window, and the cache's columns that it is about. Networks with equal windows share it."""
    n, cache, device = chunk.ids.shape[1], chunk.cache, chunk.ids.device
    document = chunk.document_start[:, :n, None]
    span = None if cache is None or cache.max_column == 0 else cache.span(window, n)
    key = counting(n, device) if span is None else cache.positions(span)[:, None]
    if cache is not None and not cache.same_column:
        return SquareContext(windowed_causal(chunk.positions[:, :, None], key, document, window)), span
    # All rows' bytes stand in the last columns: only documents are to be compared.
    return SquareContext(within_document(key, document, last_keys(n, key.shape[-1], window, device))), span


class FBLTPatcher(FBLTPreTrainedModel):
    """The entropy model: a next-byte transformer whose uncertainty decides where patches start.

    It stays in float32, or wider, in models of half precision: a boundary must not depend on how finely entropies are
    rounded. So it does when such a model is loaded or made, through `to`, `half` and `bfloat16`, and when transformers'
    quantisers replace linear maps. It cannot where code casts parameters one by one or gathers them in another dtype,
    as DeepSpeed's half precision and FSDP's `param_dtype` do, nor where a patcher is loaded alone in half precision.
    """

    config_class = FBLTPatcherConfig
    _keep_in_fp32_modules_strict = ["patcher"]
    # Quantisers leave out what is named here, by how names begin: in a base model, and in one with a head.
    _keep_in_fp32_modules = ["patcher", "model.patcher"]

    def __init__(self, config: FBLTPatcherConfig):
        super().__init__(config)
        self.embed_tokens = embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(FBLTLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = FBLTRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = FBLTRotaryEmbedding(config)
        self.lm_head = linear(config.hidden_size, config.vocab_size - 1)  # <mask> is never predicted
        if torch.get_default_dtype().itemsize < torch.float32.itemsize:
            self.to(torch.float32)
        self.post_init()

    def _apply(self, fn, recurse=True):
        return super()._apply(at_least_float32(fn), recurse)

    def forward(self, ids: torch.Tensor, positions: torch.Tensor, context: AttentionContext) -> torch.Tensor:
        """`[batch, n]` ids and row positions -> next-byte logits `[batch, n, vocab - 1]`."""
        hidden = self.embed_tokens(ids)
        rotary = self.rotary_emb(hidden, positions)
        for layer in self.layers:
            hidden, _ = layer(hidden, rotary, context)
        return self.lm_head(self.norm(hidden))


class FBLTEncoder(FBLTPreTrainedModel):
    """The local encoder: byte states, and their pooling into one token per patch."""

    config_class = FBLTEncoderConfig

    def __init__(self, config: FBLTEncoderConfig, cross_attn_k: int = 2):
        super().__init__(config)
        self.cross_attn_k = cross_attn_k
        self.embed_tokens = embedding(config.vocab_size, config.hidden_size)
        self.hash_embedding = FBLTHashEmbedding(config) if config.hash_functions and config.hash_ngram_sizes else None
        self.layers = nn.ModuleList(FBLTLayer(config, i) for i in range(config.num_hidden_layers))
        self.rotary_emb = FBLTRotaryEmbedding(config)
        self.slot_projection = linear(config.hidden_size, cross_attn_k * config.hidden_size)
        # The last layer's pooling, and where every layer has one, those of the layers before.
        earlier = config.num_hidden_layers - 1 if config.cross_attn_all_layers else 0
        self.earlier_poolings = nn.ModuleList(FBLTPooling(config) for _ in range(earlier))
        self.pooling = FBLTPooling(config)
        self.post_init()

    def forward(
        self,
        ids: torch.Tensor,
        before: torch.Tensor,
        reach: torch.Tensor,
        positions: torch.Tensor,
        context: AttentionContext,
    ) -> torch.Tensor:
        """Byte states.

        Args:
            ids, positions: `[batch, n]`.
            before: `[batch, context]`, the ids before the chunk that its first n-grams look back to.
            reach: `[batch, n]`, how many bytes back an n-gram may look.

        Returns:
            `[batch, n, width]`: the last layer's. Where every layer is pooled, `[batch, n, layers * width]`.
        """
        hidden = self.embed_tokens(ids)
        if self.hash_embedding is not None:
            hidden = hidden + self.hash_embedding(torch.cat([before, ids], dim=1), reach)
        rotary = self.rotary_emb(hidden, positions)
        pooled = []
        for layer in self.layers:
            hidden, _ = layer(hidden, rotary, context)
            pooled.append(hidden)
        return torch.cat(pooled, dim=-1) if len(self.earlier_poolings) else hidden

    def last_layer(self, states: torch.Tensor) -> torch.Tensor:
        """The last layer's share of the states, `[batch, n, width]`."""
        return states[..., -self.config.hidden_size :]

    def pool(self, states: torch.Tensor, patch: torch.Tensor, patches: int) -> torch.Tensor:
        """Patches from the states of their bytes.

        Args:
            states: `[batch, length, width]`, or those of all layers, see [`forward`].
            patch: `[batch, length]`, index of each byte's patch; `patches` for bytes of none.

        Returns:
            `[batch, patches, k * width]`.
        """
        by_layer = states.split(self.config.hidden_size, dim=-1)
        first = by_layer[0]
        index = patch[..., None].expand_as(first)
        pooled = scalar(0.0, first.dtype, first.device).expand(first.shape[0], patches + 1, first.shape[2])
        pooled = pooled.scatter_reduce(1, index, first, "amax", include_self=False)[:, :patches]
        slots = self.slot_projection(pooled).unflatten(-1, (self.cross_attn_k, -1))
        for pooling, layer_states in zip([*self.earlier_poolings, self.pooling], by_layer, strict=True):
            slots = pooling(slots, layer_states, patch)
        return slots.flatten(2)


class FBLTGlobal(FBLTPreTrainedModel):
    """The global transformer: patches -> latents."""

    config_class = FBLTGlobalConfig

    def __init__(self, config: FBLTGlobalConfig, patch_width: int | None = None):
        super().__init__(config)
        patch_width = patch_width or config.hidden_size
        self.patch_projection = None
        if patch_width != config.hidden_size:
            self.patch_projection = linear(patch_width, config.hidden_size)
        self.layers = nn.ModuleList(FBLTLayer(config, i) for i in range(config.num_hidden_layers))
        self.rotary_emb = FBLTRotaryEmbedding(config)
        self.post_init()

    def forward(self, patches: torch.Tensor, positions: torch.Tensor, context: AttentionContext) -> torch.Tensor:
        """`[batch, m, patch width]` and patch indices `[batch, m]` -> latents `[batch, m, width]`."""
        hidden = patches if self.patch_projection is None else self.patch_projection(patches)
        rotary = self.rotary_emb(hidden, positions)
        for layer in self.layers:
            hidden, _ = layer(hidden, rotary, context)
        return hidden


class FBLTDecoder(FBLTPreTrainedModel):
    """The local decoder: byte states that read latents, for clean bytes and for blocks alike."""

    config_class = FBLTDecoderConfig

    def __init__(
        self,
        config: FBLTDecoderConfig,
        latent_width: int | None = None,
        cross_attn_k: int = 2,
        has_embedding: bool = True,
    ):
        super().__init__(config)
        self.cross_attn_k = cross_attn_k
        self.embed_tokens = embedding(config.vocab_size, config.hidden_size) if has_embedding else None
        self.latent_projection = linear(latent_width or config.hidden_size, cross_attn_k * config.hidden_size)
        readers = config.num_hidden_layers if config.cross_attn_all_layers else 1
        self.readers = nn.ModuleList(FBLTLatentReading(config) for _ in range(readers))
        self.layers = nn.ModuleList(FBLTLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = FBLTRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = FBLTRotaryEmbedding(config)
        self.post_init()

    def read(self, latents: torch.Tensor) -> list[torch.Tensor]:
        """What each reading takes from latents `[batch, latents, latent width]`, whichever bytes read them."""
        slots = self.latent_projection(latents).unflatten(-1, (self.cross_attn_k, -1))
        return [reader.read(slots) for reader in self.readers]

    def forward(
        self,
        hidden: torch.Tensor,
        latents: torch.Tensor | list[torch.Tensor],
        latent_index: torch.Tensor,
        positions: torch.Tensor,
        context: AttentionContext,
        recorder: "DecoderRecorder | None" = None,
        asked: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            hidden: `[batch, length, width]`: embedded bytes, clean ones first, then those of blocks.
            latents: `[batch, latents, latent width]`, or what was read of them, see [`read`].
            latent_index: `[batch, length]`, which latent each position reads.
            positions: `[batch, length]`, row positions.
            asked: `[batch, queries]`, the only positions whose states are wanted; None for all.

        Returns:
            Normed states `[batch, length, width]`, or `[batch, queries, width]`.
        """
        rotary = self.rotary_emb(hidden, positions)
        reads = latents if isinstance(latents, list) else self.read(latents)
        for i, layer in enumerate(self.layers):
            if recorder is not None:
                hidden = recorder.see_states(hidden)
            if i < len(self.readers):
                hidden = self.readers[i](hidden, reads[i], latent_index)
            if asked is not None and layer is self.layers[-1]:
                hidden, weights = layer(hidden, rotary, context.of_queries(asked), asked)
            else:
                hidden, weights = layer(hidden, rotary, context)
            if recorder is not None and weights is not None:
                recorder.see_weights(context.square(weights))
        hidden = self.norm(hidden)
        return hidden if recorder is None else recorder.see_states(hidden)
