# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The networks assembled: bytes -> patch starts -> encoder -> latents -> global -> decoder -> byte states.

Padding is moved to the right on entry, and back on exit. Every network is called on a chunk of new bytes. Without a
cache the chunk is the whole row, so full passes and cached ones run the same code.
"""

from dataclasses import dataclass

import torch
import transformers
from torch import nn
from transformers.modeling_outputs import ModelOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, logging

from .attention_fblt import CachedContext, SquareContext, uses_flex
from .block_attention_fblt import BlockAttentionContext, flex_block_attention
from .block_loss_fblt import Blocks
from .cache_fblt import FBLTCache
from .chunk_fblt import Chunk
from .compatibility_fblt import (
    CACHE_NAME,
    CACHE_RENAMED,
    BothCacheNames,
    given_cache,
    is_exporting,
    warn_if_untested,
)
from .compiled_networks_fblt import network_call
from .configuration_fblt import FBLTConfig
from .counting_fblt import counting, scalar
from .forward_steps_fblt import feed
from .input_checks_fblt import check_arguments, check_cache, check_input, documents_of, refuse_keywords
from .joined_maps_fblt import without_gradient
from .masks_fblt import causal, within_document
from .networks_fblt import (
    FBLTDecoder,
    FBLTEncoder,
    FBLTGlobal,
    FBLTPatcher,
    FBLTPreTrainedModel,
    local_context,
)
from .padding_fblt import RightPadded
from .patching_fblt import (
    PatchingState,
    document_starts,
    entropies_from_logits,
    is_separator,
    patch_starts,
    raw_boundaries,
)
from .recorder_fblt import DecoderRecorder

logger = logging.get_logger(__name__)


@dataclass
class FBLTModelOutput(BothCacheNames):
    """Output of [`FBLTModel`].

    Args:
        last_hidden_state: `[batch, length, decoder width]`, normed decoder states.
        cache, past_key_values: the KV cache, extended by the bytes given; two names of one field.
        hidden_states, attentions: of the decoder's layers, when asked for.
    """

    last_hidden_state: torch.Tensor | None = None
    if CACHE_RENAMED:
        cache: FBLTCache | None = None
    else:
        past_key_values: FBLTCache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class FBLTPatchOutput(ModelOutput):
    """Output of `patch`: `entropies` `[batch, n]` in nats, `patch_starts` `[batch, n + 1]`, next position included."""

    entropies: torch.Tensor | None = None
    patch_starts: torch.Tensor | None = None


class FBLTModel(FBLTPreTrainedModel):
    """FBLT without the byte head."""

    def __init__(self, config: FBLTConfig):
        config.check()  # here too: a field may have been set after the config was made
        super().__init__(config)
        warn_if_untested(transformers.__version__)
        k = config.cross_attn_k
        decoder = config.decoder_config
        self.encoder = FBLTEncoder(config.encoder_config, k)
        self.global_transformer = FBLTGlobal(config.global_config, k * config.encoder_config.hidden_size)
        needs_table = decoder.input == "embedding" or config.block_size is not None
        self.decoder = FBLTDecoder(decoder, config.global_config.hidden_size, k, needs_table)
        # Last, and frozen from the start: what is trained comes first in `modules()`.
        self.patcher = None
        if config.patching_mode == "entropy":
            self.patcher = FBLTPatcher(config.patcher_config)
        self._freeze()
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.encoder.embed_tokens = value

    def train(self, mode: bool = True) -> "FBLTModel":
        super().train(mode)
        if self.patcher is not None:
            self.patcher.eval()
        self._freeze()  # here too: loading makes new parameters, and then calls `eval`
        return self

    def _freeze(self) -> None:
        """Freezes what no gradient reaches, so that optimizers and distributed training do not wait for one."""
        unreached = [] if self.patcher is None else [self.patcher]
        if self.config.cross_attn_k == 1:
            unreached += [part for reader in self.decoder.readers for part in reader.unread_with_one_slot()]
        for module in unreached:
            module.requires_grad_(False)

    # --- bytes -> patch starts ---

    def begin_chunk(
        self,
        ids: torch.Tensor,
        lengths: torch.Tensor,
        cache: FBLTCache | None,
        document_ends: torch.Tensor | None = None,
    ) -> Chunk:
        """A chunk of new bytes after what the cache holds: `[batch, n]`, `lengths` `[batch]` of them real.

        Without a cache, `document_ends` `[batch, n]` may name bytes that end a document beside `</s>`.
        """
        batch, n = ids.shape
        if cache is not None:
            cache.make_room()
        positions = counting(n + 1, ids.device).expand(batch, -1) if cache is None else cache.following(0, n + 1)
        position = torch.zeros_like(lengths) if cache is None else cache.lengths
        first = torch.zeros_like(position) if cache is None else cache.here(cache.document_start)
        separator = is_separator(ids, self.config.eos_token_id)
        if document_ends is not None:
            separator = separator | document_ends
        return Chunk(
            ids=ids,
            lengths=lengths,
            position=position,
            positions=positions[:, :n],
            with_next=positions,
            document_start=document_starts(separator, position, first, positions[:, 1:]),
            separator=separator,
            cache=cache,
            column=None if cache is None else cache.place(0, n),
        )

    @torch.no_grad()
    def segment(self, chunk: Chunk, given: torch.Tensor | None = None, close_patch: torch.Tensor | None = None) -> None:
        """Fills in the chunk's patch starts, from the patcher or as `given` `[batch, n + 1]`.

        In rows that `close_patch` `[batch]` names, the next byte starts a patch whatever the patcher says (the paper's
        forced closing).
        """
        config, cache = self.config, chunk.cache
        batch, n = chunk.ids.shape
        if cache is None:
            state = PatchingState.initial(batch, chunk.ids.device)
        else:
            state = cache.patching_state(with_previous=given is None and config.patching_mode == "space")
        if given is not None:
            starts = torch.cat([state.first_is_start[:, None], given[:, 1:]], dim=1)
        else:
            if self.patcher is not None:
                stores = None if cache is None else cache.patcher
                context = local_context(config.patcher_config, stores, chunk)
                patcher = network_call(self.patcher, cache, n)
                # Not under autocast: boundaries must not depend on how finely entropies are rounded.
                with torch.autocast(chunk.ids.device.type, enabled=False):
                    chunk.entropies = entropies_from_logits(patcher(chunk.ids, chunk.positions, context))
            isolated = config.isolate_documents
            boundaries = raw_boundaries(
                config.patching_mode,
                chunk.ids,
                chunk.entropies,
                state,
                chunk.document_start if isolated else torch.zeros_like(chunk.document_start),
                config.patching_threshold,
                config.patch_size,
            )
            starts = patch_starts(
                boundaries,
                state,
                chunk.document_start,
                config.max_patch_length,
                isolated,
                chunk.with_next,
            )
        if close_patch is not None:
            last = chunk.lengths[:, None]
            starts = starts.scatter(1, last, starts.gather(1, last) | close_patch[:, None])
        chunk.starts = starts
        before = torch.zeros_like(chunk.position) if cache is None else cache.here(cache.patch_index)
        chunk.patch_index = torch.cat([before[:, None], starts[:, 1:]], dim=1).cumsum(1)
        if cache is not None:
            cache.write_segmentation(chunk)

    # --- patch starts -> latents ---

    def encode(self, chunk: Chunk) -> torch.Tensor:
        """Encoder byte states of a segmented chunk, `[batch, n, width]`."""
        cache, n = chunk.cache, chunk.ids.shape[1]
        hashing = self.encoder.hash_embedding
        look_back = 0 if hashing is None else hashing.context
        before = chunk.ids.new_zeros(chunk.ids.shape[0], look_back) if cache is None else cache.ids_before(look_back)
        isolated = self.config.isolate_documents
        reach = chunk.positions - chunk.document_start[:, :n] if isolated else chunk.positions
        context = local_context(self.config.encoder_config, None if cache is None else cache.encoder, chunk)
        states = network_call(self.encoder, cache, n)(chunk.ids, before, reach, chunk.positions, context)
        if cache is not None:
            cache.states.write(states, chunk.column, cache.max_column + n)
        return states

    def compress(self, chunk: Chunk, states: torch.Tensor) -> torch.Tensor:
        """Latents that the chunk's bytes may read: the last one from before the chunk, then those it completes.

        Returns:
            `[batch, 1 + m, global width]`. Byte `j` of the chunk reads latent `patch_index[j + 1] - patch_index[0]`. At
            the beginning of a row the first latent is zero, and nothing reads it.
        """
        cache, device = chunk.cache, chunk.ids.device
        completed = chunk.completed()
        if is_exporting():
            # A graph's shapes must not hang on values: there is room for a patch per byte, those too many are hidden.
            m = chunk.ids.shape[1]
            most = torch.full_like(completed[0], m)
        else:
            most = completed[0] if len(completed) == 1 else completed.max()
            m = int(most)
        if cache is not None and cache.latents.data is not None:
            previous = cache.last_latent()
        else:
            previous = states.new_zeros(states.shape[0], 1, self.config.global_config.hidden_size)
        if m == 0:
            return previous

        first = chunk.patch_index[:, :1]
        if cache is None:
            patch, separator = chunk.patch_index[:, :-1] - first, chunk.separator
        else:
            states, ids, patch = cache.open_patch_bytes(chunk)
            separator = is_separator(ids, self.config.eos_token_id)
        patch = torch.where(patch < completed[:, None], patch, most)
        patches = self.encoder.pool(states, patch, m)

        document = self._patch_documents(chunk, separator, patch, m)
        if cache is None:
            index = first + counting(m, device)  # [batch, m], patch indices in the row
        else:
            index = cache.following_patches(m)
        context = self._patch_context(cache, index, document[:, :m])
        latents = network_call(self.global_transformer, cache, m)(patches, index, context)
        if cache is not None:
            place, end = cache.max_patches if cache.same_patches else index, cache.max_patches + m
            cache.latents.write(latents, place, end)
            more = place if isinstance(place, int) else torch.cat([index, index[:, -1:] + 1], dim=1)
            cache.document_patch.write(document, more, end + 1)
        return torch.cat([previous.to(latents.dtype), latents], dim=1)

    def _patch_context(
        self, cache: FBLTCache | None, index: torch.Tensor, document: torch.Tensor
    ) -> CachedContext | SquareContext:
        """What new patches `index` `[batch, m]` see, whose documents begin at the patches `document` `[batch, m]`."""
        query, document, m = index[:, :, None], document[:, :, None], index.shape[1]
        if cache is None:
            return SquareContext(causal(query, index[0], document))
        held, end = cache.max_patches, cache.max_patches + m
        if cache.compiles(m):
            return cache.whole_context(cache.global_transformer, held, m, lambda key: causal(query, key, document))
        if cache.same_patches:
            # One patch is the last of the keys, and sees all of its document.
            keys = counting(end, index.device)
            mask = within_document(keys, document, None if m == 1 else keys <= index[:1].t())
        else:
            keys = counting(end, index.device) if held else index[0]
            mask = causal(query, keys, document)
        writes = [(slice(None), held if cache.same_patches else index)]
        return CachedContext(cache.global_transformer, writes, end, SquareContext(mask), (0, end) if held else None)

    def _patch_documents(self, chunk: Chunk, separator: torch.Tensor, patch: torch.Tensor, m: int) -> torch.Tensor:
        """First patch of the document of each new patch, and of the one after: `[batch, m + 1]`.

        `separator` `[batch, bytes]` are the bytes that end a document, of `patch` `[batch, bytes]`, their patches.
        """
        closes = scalar(0, torch.long, patch.device).expand(len(patch), m + 1)
        closes = closes.scatter_reduce(1, patch, separator.long(), "amax")[:, :m] > 0
        first, cache = chunk.patch_index[:, 0], chunk.cache
        if cache is None or cache.document_patch.data is None:
            return document_starts(closes, first, torch.zeros_like(first))
        following = cache.following_patches(m + 1)[:, 1:]
        if cache.same_patches:
            return document_starts(closes, first, cache.document_patch.data[:, cache.max_patches], following)
        return document_starts(closes, first, cache.document_patch.at(first), following)

    # --- latents -> bytes ---

    def decoder_input(self, ids: torch.Tensor, states: torch.Tensor | None) -> torch.Tensor:
        """What clean bytes enter the decoder as: its own byte embeddings, or the encoder's states."""
        if self.config.decoder_config.input == "embedding":
            return self.decoder.embed_tokens(ids)
        return self.encoder.last_layer(states)

    def decode(
        self, chunk: Chunk, states: torch.Tensor, latents: torch.Tensor, recorder: DecoderRecorder | None = None
    ) -> torch.Tensor:
        """Normed decoder states of a chunk's bytes, `[batch, n, width]`."""
        context = local_context(self.config.decoder_config, None if chunk.cache is None else chunk.cache.decoder, chunk)
        if latents.shape[1] == 1:  # nothing to choose from
            latent_index = counting(1, latents.device).expand_as(chunk.positions)
        else:
            latent_index = chunk.patch_index[:, 1:] - chunk.patch_index[:, :1]
            latent_index = latent_index.clamp(max=latents.shape[1] - 1)  # padding may count on
        if latents.shape[1] == 1 and chunk.cache is not None and without_gradient(latents):
            latents = chunk.cache.last_reads(self.decoder) if chunk.cache.max_patches else latents
        return network_call(self.decoder, chunk.cache, chunk.ids.shape[1])(
            self.decoder_input(chunk.ids, states), latents, latent_index, chunk.positions, context, recorder
        )

    def decode_with_blocks(
        self, chunk: Chunk, states: torch.Tensor, latents: torch.Tensor, blocks: Blocks
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Training layout: states of clean bytes `[batch, n, width]`, and of the blocks' masked positions
        `[positions, width]`, in the order of `blocks.masked`.
        """
        batch, n = chunk.ids.shape
        # Blocks that nothing is masked in are left out, and of the others only masked positions are asked for.
        present = blocks.present & blocks.masked.any(-1, keepdim=True)
        row, block, offset = present.nonzero(as_tuple=True)
        anchor = blocks.anchors[row, block]
        # Latents of all rows, one after the other. A block continues after the byte before its anchor, and reads the
        # latent that this byte reads.
        first = counting(batch, row.device)[:, None] * latents.shape[1]
        clean_index = chunk.patch_index[:, 1:].clamp(max=latents.shape[1] - 1) + first
        latent_index = torch.cat([clean_index.flatten(), clean_index[row, anchor - 1]])
        positions = torch.cat([chunk.positions.flatten(), anchor + offset])
        clean = self.decoder_input(chunk.ids, states).flatten(0, 1)
        hidden = torch.cat([clean, self.decoder.embed_tokens(blocks.input_ids[present])])
        config = self.config.decoder_config
        build = flex_block_attention if uses_flex(config) else BlockAttentionContext
        context = build(chunk.document_start[:, :n], config.sliding_window, blocks.anchors, present)
        masked = batch * n + blocks.masked[present].nonzero()[:, 0]
        asked = torch.cat([counting(batch * n, masked.device), masked])
        hidden = self.decoder(
            hidden[None],
            latents.flatten(0, 1)[None],
            latent_index[None],
            positions[None],
            context,
            asked=asked[None],
        )[0]
        return hidden[: batch * n].unflatten(0, (batch, n)), hidden[batch * n :]

    # --- public ---

    def patch(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> FBLTPatchOutput:
        """Entropies and patch starts of whole rows, without running the other networks.

        Args:
            input_ids: `[batch, n]`.
            attention_mask: `[batch, n]`, 0 on padding.

        Returns:
            `entropies` `[batch, n]` in nats (None unless `patching_mode` is `"entropy"`) and boolean `patch_starts`
            `[batch, n + 1]`, the next position included; 0 and False on padding.
        """
        input_ids, _ = check_input(self.config.vocab_size, input_ids, attention_mask)
        rows = RightPadded.of(input_ids, attention_mask)
        chunk = self.begin_chunk(rows.ids, rows.lengths, None)
        self.segment(chunk)
        entropies = None if chunk.entropies is None else rows.restore(chunk.entropies)
        return FBLTPatchOutput(entropies=entropies, patch_starts=rows.restore_starts(chunk.starts))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: FBLTCache | None = None,
        patch_starts: torch.Tensor | None = None,
        use_cache: bool | None = None,
        cache: FBLTCache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | FBLTModelOutput:
        """
        Args:
            input_ids: `[batch, n]`, the bytes that follow what the cache holds.
            attention_mask: `[batch, n]`, or the mask of all columns so far; 0 on padding, which may stand anywhere.
            past_key_values: the KV cache; extended in place.
            patch_starts: `[batch, n + 1]`, patch starts to use instead of the patcher's. The first two bytes of a row
                start patches.
            use_cache: whether to return a cache; the config's `use_cache` outside training when None.
            cache: another name for `past_key_values`.
            position_ids: `[batch, n]`, not needed. Where they begin again at 0 in a row, a document does, as after
                `</s>`. Such rows have no cache. Their documents are as alone but for the output at a document's last
                byte, whose patch is complete because another document follows.

        Raises:
            TypeError, ValueError: an argument that FBLT cannot use; the message names it and the remedy.
        """
        refuse_keywords(self, kwargs)
        check_arguments(use_cache=use_cache, **kwargs)
        cache = given_cache({"past_key_values": past_key_values, "cache": cache})
        input_ids, _ = check_input(self.config.vocab_size, input_ids, attention_mask)
        check_cache(self.config, cache, len(input_ids))
        rows = RightPadded.of(input_ids, attention_mask)
        ends = documents_of(rows, kwargs.get("position_ids"), cache)
        if cache is None and ends is None and (use_cache if use_cache is not None else self._default_use_cache()):
            cache = FBLTCache(self.config, input_ids.shape[0], input_ids.device)
        starts = None if patch_starts is None else rows.take_starts(patch_starts, cache is None or not cache.max_length)
        flags = {name: kwargs.get(name) for name in ("output_hidden_states", "output_attentions")}
        flags = {k: getattr(self.config, k, False) if v is None else v for k, v in flags.items()}
        recorder = None
        if any(flags.values()):
            window = self.config.decoder_config.sliding_window
            recorder = DecoderRecorder(rows, attention_mask, cache, window)
        hidden = feed(self, rows.ids, rows.lengths, cache, starts, recorder, document_ends=ends).hidden
        if cache is not None:
            cache.columns += input_ids.shape[1]
        output = FBLTModelOutput(last_hidden_state=rows.restore(hidden), **{CACHE_NAME: cache})
        if flags["output_hidden_states"]:
            output.hidden_states = tuple(recorder.hidden_states)
        if flags["output_attentions"]:
            output.attentions = tuple(recorder.attentions)
            if not recorder.attentions:
                logger.warning_once(
                    "`output_attentions` is True, but this attention implementation computes no weights: load the "
                    "model with attn_implementation='eager' to see them."
                )
        return output if returns_dict(self.config, kwargs) else output.to_tuple()

    def _default_use_cache(self) -> bool:
        return bool(self.config.use_cache) and not self.training


def returns_dict(config: FBLTConfig, kwargs: dict) -> bool:
    asked = kwargs.get("return_dict")  # wrappers hand on None for "not said"
    return config.return_dict if asked is None else asked
