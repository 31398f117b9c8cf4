# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""FBLT with its byte head: logits, the two losses of training, and `generate`."""

from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as shortened
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .base_model_fblt import FBLTModel, FBLTPatchOutput, returns_dict
from .block_loss_fblt import (
    IGNORED,
    Blocks,
    block_loss,
    build_blocks,
    bytes_before,
    draft_head_weight,
    next_byte_loss,
)
from .cache_fblt import FBLTCache
from .compatibility_fblt import (
    CACHE_NAME,
    CACHE_RENAMED,
    BothCacheNames,
    given_cache,
    is_exporting,
    warn_if_not_sharded,
)
from .configuration_fblt import FBLTConfig, FBLTDraftHeadConfig
from .counting_fblt import counting, one_of
from .draft_head_fblt import FBLTDraftHead
from .generation_config_fblt import FBLTGenerationConfig
from .generation_fblt import FBLTGenerationMixin
from .input_checks_fblt import (
    check_arguments,
    check_input,
    documents_of,
    refuse_in_generate,
    refuse_keywords,
)
from .layers_fblt import linear
from .networks_fblt import FBLTPreTrainedModel
from .padding_fblt import RightPadded
from .tokenization_fblt import build_tokenizer


@dataclass
class FBLTCausalLMOutput(BothCacheNames):
    """Output of [`FBLTForCausalLM`].

    Args:
        loss: with labels; in train mode `next_byte_loss + diffusion_loss_weight * diffusion_loss`, and with a draft
            head `+ draft_head_loss_weight * draft_head_loss`; in eval mode the next-byte loss. Nats per target byte.
        logits: `[batch, length, vocab]`, of the byte after each position.
        cache, past_key_values, hidden_states, attentions: see [`FBLTModelOutput`].
        next_byte_loss, diffusion_loss, draft_head_loss: the terms, in train mode.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    if CACHE_RENAMED:
        cache: FBLTCache | None = None
    else:
        past_key_values: FBLTCache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    next_byte_loss: torch.Tensor | None = None
    diffusion_loss: torch.Tensor | None = None
    draft_head_loss: torch.Tensor | None = None


class FBLTForCausalLM(FBLTPreTrainedModel, FBLTGenerationMixin):
    """FBLT with its byte head: next-byte logits for clean bytes, same-position logits for block bytes."""

    # Here, because PreTrainedModel's own value hides a mixin's: no other model can draft for this one.
    _is_stateful = True

    def __init__(self, config: FBLTConfig):
        super().__init__(config)
        self.model = FBLTModel(config)
        self.lm_head = linear(config.decoder_config.hidden_size, config.vocab_size, scale=0.3)
        head = config.draft_head_config
        self.draft_head = None if head is None else FBLTDraftHead(head, config.decoder_config.hidden_size)
        self.post_init()
        self.generation_config = FBLTGenerationConfig.for_model(config)
        self._use_cache = config.use_cache

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def add_draft_head(self, **fields: Any) -> None:
        """Gives the model a fresh draft head, which changes nothing until it is trained.

        Args:
            fields: of [`FBLTDraftHeadConfig`].

        Raises:
            ValueError: the model has a head already, or no blocks.
        """
        if self.draft_head is not None:
            raise ValueError("The model has a draft head already: train that one.")
        if self.config.block_size is None:
            raise ValueError(
                "`block_size` is None: a draft head fills in blocks, for which this model was not trained."
            )
        self.config.draft_head_config = FBLTDraftHeadConfig(**fields)
        head = FBLTDraftHead(self.config.draft_head_config, self.config.decoder_config.hidden_size)
        for module in head.modules():
            self._init_weights(module)
        self.draft_head = head.to(self.lm_head.weight)

    def train(self, mode: bool = True) -> "FBLTForCausalLM":
        super().train(mode)
        if self.draft_head is not None and not self._trains_draft_head():
            self.draft_head.requires_grad_(False)  # no gradient reaches it
        return self

    def _trains_draft_head(self) -> bool:
        return self.draft_head is not None and self.config.draft_head_loss_weight > 0

    def save_pretrained(self, save_directory, *args, **kwargs) -> None:
        """Saves weights, configs, code, and the byte tokenizer, unless the folder holds a tokenizer already: one that
        was saved there may have tokens or settings of its user's own.
        """
        # transformers would name this class alone; the same folder serves AutoModel too.
        self.config.auto_map = {"AutoModel": "modeling_fblt.FBLTModel"}
        # Trainer turns `use_cache` off on every model that it is given. Training makes no cache here anyhow, so what is
        # saved is what the model was made with: one that was trained returns caches again once it is loaded.
        now, self.config.use_cache = self.config.use_cache, self._use_cache
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.config.use_cache = now
        if kwargs.get("is_main_process", True) and not (Path(save_directory) / "tokenizer_config.json").exists():
            build_tokenizer().save_pretrained(save_directory)

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs) -> dict:
        # Stock has `inputs_embeds` in its signature, which transformers reads as: embeddings may stand in for ids.
        return super().prepare_inputs_for_generation(input_ids, **kwargs)

    def _validate_model_kwargs(self, model_kwargs: dict) -> None:
        refuse_in_generate(model_kwargs)
        known = {*TransformersKwargs.__optional_keys__, "inputs_embeds"}
        refuse_keywords(self, {name: value for name, value in model_kwargs.items() if name in known})
        if model_kwargs.get("position_ids") is not None:
            raise ValueError("`position_ids` are given to `generate`: FBLT counts positions itself; leave them out.")
        super()._validate_model_kwargs(model_kwargs)

    def init_continuous_batching(self, *args, **kwargs):
        """What `generate_batch` begins with.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "Continuous batching (`generate_batch`) is not supported: it pages one attention over tokens, and FBLT has "
            "a state of bytes and one of patches. Give `generate` a batch of left-padded rows instead."
        )

    def patch(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> FBLTPatchOutput:
        """See [`FBLTModel.patch`]."""
        return self.model.patch(input_ids, attention_mask)

    def byte_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[..., width]` decoder states -> `[..., vocab]` logits; `<mask>` is never predicted."""
        logits = self.lm_head(hidden)
        never = one_of(self.config.mask_token_id, logits.shape[-1], logits.device)
        return logits.masked_fill(never, torch.finfo(logits.dtype).min)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: FBLTCache | None = None,
        labels: torch.Tensor | None = None,
        patch_starts: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cache: FBLTCache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | FBLTCausalLMOutput:
        """
        Args:
            input_ids, attention_mask, past_key_values, patch_starts, use_cache, cache, position_ids: see
                [`FBLTModel.forward`].
            labels: `[batch, n]`, as `input_ids`. A byte with the label -100 has no loss, and is never masked in blocks.
            logits_to_keep: compute logits of the last so many columns only (0: all), or of the given columns.
            shift_labels: labels already moved to the position that predicts them, instead of `labels`.
            num_items_in_batch: what to divide the summed losses by, instead of this batch's target bytes.

        Raises:
            TypeError, ValueError: an argument that FBLT cannot use, such as labels of another shape than the bytes or
                together with a cache, or hidden states asked of a step that trains blocks; the message names it.
        """
        refuse_keywords(self, kwargs)
        check_arguments(use_cache=use_cache, logits_to_keep=logits_to_keep, **kwargs)
        cache = given_cache({"past_key_values": past_key_values, "cache": cache})
        shift_labels = kwargs.pop("shift_labels", None)
        count = kwargs.pop("num_items_in_batch", None)
        return_dict = returns_dict(self.config, kwargs)
        kwargs["return_dict"] = True
        has_labels = labels is not None or shift_labels is not None
        if has_labels:
            input_ids, given = check_input(self.config.vocab_size, input_ids, attention_mask, labels, shift_labels)
            labels, shift_labels = (given, None) if shift_labels is None else (None, given)
        if has_labels and cache is not None:
            raise ValueError(
                "`labels` are given together with `past_key_values`: the loss needs whole rows, without a cache."
            )
        trains_blocks = self.training and self.config.block_size is not None
        trains_blocks = trains_blocks and (self.config.diffusion_loss_weight > 0 or self._trains_draft_head())
        if has_labels and self.training:
            warn_if_not_sharded(self)
        if has_labels and trains_blocks:
            _refuse_records(self.config, kwargs)
            rows = RightPadded.of(input_ids, attention_mask)
            ends = documents_of(rows, kwargs.get("position_ids"), None)
            columns = _kept_columns(logits_to_keep, input_ids.shape[1])
            result = self._train_step(rows, labels, shift_labels, patch_starts, count, ends)
            result.logits = result.logits[:, columns]
            return result if return_dict else result.to_tuple()

        use_cache = bool(use_cache) if has_labels else use_cache
        outputs = self.model(input_ids, attention_mask, cache, patch_starts, use_cache, **kwargs)
        columns = _kept_columns(logits_to_keep, input_ids.shape[1])
        # A loss needs the logits of every column, whichever of them are returned.
        logits = self.byte_logits(outputs.last_hidden_state if has_labels else outputs.last_hidden_state[:, columns])
        result = FBLTCausalLMOutput(
            logits=logits[:, columns] if has_labels else logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE_NAME: getattr(outputs, CACHE_NAME)},
        )
        if has_labels:
            rows = RightPadded.of(input_ids, attention_mask)
            targets = next_byte_targets(rows, labels, shift_labels)
            result.loss = next_byte_loss(rows.take(logits), targets) / _target_count(targets, count)
            result.next_byte_loss = result.loss
        return result if return_dict else result.to_tuple()

    def _train_step(self, rows: RightPadded, labels, shift_labels, starts, count, ends) -> FBLTCausalLMOutput:
        """All terms of the loss from one decoder call (Eq. 5-7)."""
        model, config = self.model, self.config
        targets = next_byte_targets(rows, labels, shift_labels)
        chunk = model.begin_chunk(rows.ids, rows.lengths, None, ends)
        model.segment(chunk, None if starts is None else rows.take_starts(starts, begins=True))
        states = model.encode(chunk)
        latents = model.compress(chunk, states)
        blocks = build_blocks(
            rows.ids, targets, chunk.starts[:, :-1], chunk.document_start[:, :-1], rows.lengths, config
        )
        # The draft head reads a block's known positions too.
        asked = blocks.masked
        if self._trains_draft_head():
            asked = blocks.present & blocks.masked.any(-1, keepdim=True)
        clean, hidden = model.decode_with_blocks(chunk, states, latents, replace(blocks, masked=asked))
        logits = self.byte_logits(clean)
        drafted = self.byte_logits(hidden if asked is blocks.masked else hidden[blocks.masked[asked]])
        count = _target_count(targets, count)
        next_byte = next_byte_loss(logits, targets) / count
        diffusion = block_loss(drafted, logits, blocks, config.distillation) / count
        result = FBLTCausalLMOutput(
            loss=next_byte + config.diffusion_loss_weight * diffusion,
            logits=rows.restore(logits),
            next_byte_loss=next_byte.detach(),
            diffusion_loss=diffusion.detach(),
        )
        if self._trains_draft_head():
            corrected = drafted + self._corrections(rows.ids, blocks, asked, hidden)
            weighted = replace(blocks, weight=draft_head_weight(blocks, config))
            loss = block_loss(corrected, logits, weighted, config.draft_head_config.distillation) / count
            result.loss = result.loss + config.draft_head_loss_weight * loss
            result.draft_head_loss = loss.detach()
        return result

    def _corrections(
        self, ids: torch.Tensor, blocks: Blocks, asked: torch.Tensor, hidden: torch.Tensor
    ) -> torch.Tensor:
        """The draft head's corrections at masked positions given the true bytes before them, `[positions, vocab]`.

        Args:
            ids: `[batch, length]`, the clean rows.
            asked: `[batch, blocks, block_size]`, the positions that `hidden` `[asked positions, width]` is of: whole
                blocks, as far as they are present.
        """
        used = asked.any(-1)
        whole = hidden.new_zeros(*asked[used].shape, hidden.shape[-1]).index_put((asked[used],), hidden)
        before = bytes_before(ids, blocks.anchors, asked.shape[-1])[used]
        masked = blocks.masked[used]
        return self.draft_head.correction(self.draft_head(before, whole)[masked], whole[masked])


def _refuse_records(config: FBLTConfig, kwargs: dict) -> None:
    """Refuses what a step that trains blocks cannot return: it computes all rows and their blocks as one long row.

    Raises:
        ValueError: names the argument and the remedy.
    """
    for name in ("output_hidden_states", "output_attentions"):
        asked = kwargs.get(name)
        if getattr(config, name, False) if asked is None else asked:
            raise ValueError(
                f"`{name}` is True in a step that trains blocks, which has none to return by column: leave it out, or "
                "call the model in eval mode."
            )


def _kept_columns(logits_to_keep: int | torch.Tensor, n: int) -> slice | torch.Tensor:
    """An index of the columns of `[batch, n]` whose logits are asked for.

    Raises:
        ValueError: it names columns that are not there.
    """
    if not isinstance(logits_to_keep, torch.Tensor):
        return slice(-logits_to_keep, None) if logits_to_keep else slice(None)
    if (
        not is_exporting()
        and not logits_to_keep.is_meta
        and bool(((logits_to_keep < -n) | (logits_to_keep >= n)).any())
    ):
        raise ValueError(
            f"`logits_to_keep` is {shortened(logits_to_keep.tolist())}: give columns from {-n} to {n - 1}."
        )
    return logits_to_keep


def next_byte_targets(
    rows: RightPadded, labels: torch.Tensor | None, shift_labels: torch.Tensor | None
) -> torch.Tensor:
    """The label of the byte after each byte; -100 where there is none. `[batch, n]`, right-padded."""
    positions = counting(rows.ids.shape[1], rows.ids.device)
    if shift_labels is not None:
        return rows.take(shift_labels).masked_fill(positions >= rows.lengths[:, None], IGNORED)
    following = F.pad(rows.take(labels), (0, 1), value=IGNORED)[:, 1:]
    return following.masked_fill(positions + 1 >= rows.lengths[:, None], IGNORED)


def _target_count(targets: torch.Tensor, count: int | torch.Tensor | None) -> torch.Tensor:
    if count is not None:
        return torch.as_tensor(count, device=targets.device)
    return (targets != IGNORED).sum().clamp(min=1)


# Saved code, and `auto_map` in a config, name this file whichever of the two classes is saved.
FBLTModel.__module__ = __name__

__all__ = ["FBLTCausalLMOutput", "FBLTForCausalLM", "FBLTModel"]
