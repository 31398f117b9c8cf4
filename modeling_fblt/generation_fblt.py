# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Decoding: one cached loop, and the four decodings as drafters beside it.

One iteration of the loop:

1. draft: a drafter continues after the last known byte with up to `r` bytes (`ar`: none);
2. feed: bytes that are known but not fed, and the draft, go once through all networks, which extends the caches and
   gives the next-byte distributions that verify the draft (`blt-d` skips this: it takes its draft as it is);
3. accept: the longest prefix of the draft that plain decoding would have written, and the byte after it;
4. stop or go on: bytes after a stop are dropped, the caches are taken back to the accepted bytes, and the last known
   byte is carried: it is fed in the next iteration.
"""

from dataclasses import dataclass

import torch
from transformers import GenerationMixin
from transformers.generation import GenerateDecoderOnlyOutput, GenerationMode, LogitsProcessorList
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria

from .cache_fblt import FBLTCache
from .drafting_fblt import Chooser, Decoding, build_drafter
from .generation_config_fblt import DecodingSettings, FBLTGenerationConfig
from .rows_fblt import Rows
from .steps_fblt import feed
from .verification_fblt import accept_greedy


@dataclass
class FBLTGenerateOutput(GenerateDecoderOnlyOutput):
    """Output of `generate(..., return_dict_in_generate=True)`. Counters are `[batch]` LongTensors, one entry per row.

    Args:
        decoder_nfe, encoder_nfe, global_nfe, patcher_nfe: forward calls of each network, over any number of positions.
        drafted, accepted: bytes drafted, and how many of them were kept.
        iterations: rounds of the loop.
    """

    decoder_nfe: torch.Tensor | None = None
    encoder_nfe: torch.Tensor | None = None
    global_nfe: torch.Tensor | None = None
    patcher_nfe: torch.Tensor | None = None
    drafted: torch.Tensor | None = None
    accepted: torch.Tensor | None = None
    iterations: torch.Tensor | None = None


class FBLTGenerationMixin(GenerationMixin):
    """`generate` for FBLT. Greedy and sampling calls run the loop of this file; the rest of transformers' contract
    (merged configs, processors, criteria, streamers) is prepared by `generate` itself.
    """

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, *args
    ) -> None:
        if generation_mode == GenerationMode.ASSISTED_GENERATION:
            raise ValueError(
                "`assistant_model` and `prompt_lookup_num_tokens` are not supported: FBLT drafts and verifies by "
                "itself; choose decoding='blt-dv' or 'blt-s' instead."
            )
        cache = model_kwargs.get("past_key_values")
        if cache is None and generation_config.use_cache is not False:
            if generation_config.cache_implementation is not None:
                raise ValueError(
                    f"`cache_implementation` is {generation_config.cache_implementation!r}: FBLT keeps its own state "
                    "and brings its own cache; leave it None."
                )
            rows = batch_size * max(generation_config.num_beams, generation_config.num_return_sequences)
            model_kwargs["past_key_values"] = FBLTCache(self.config, rows, self.device)
        elif cache is not None and not isinstance(cache, FBLTCache):
            raise ValueError(
                f"`past_key_values` is a {type(cache).__name__}: FBLT needs the FBLTCache of an earlier call."
            )

    def _sample(
        self,
        input_ids: torch.LongTensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria,
        generation_config,
        synced_gpus: bool = False,
        streamer=None,
        **model_kwargs,
    ) -> FBLTGenerateOutput | torch.LongTensor:
        """The loop described at the head of this file."""
        settings = DecodingSettings.of(generation_config, self.config)
        check_supported(settings, generation_config, stopping_criteria, input_ids, model_kwargs)
        columns = input_ids.shape[1]
        rows = Rows.of(input_ids, model_kwargs.get("attention_mask"))
        if int(rows.lengths.min()) == 0:
            raise ValueError("`input_ids` has a row without any byte: start it with `<s>` (id 1).")
        cache = model_kwargs["past_key_values"]
        if bool((cache.lengths >= rows.lengths).any()):
            raise ValueError(
                f"`past_key_values` holds {cache.lengths.tolist()} bytes, `input_ids` only {rows.lengths.tolist()}: "
                "give the whole sequence so far, with at least one byte that the cache does not hold."
            )
        choose = Chooser(logits_processor, generation_config.do_sample)
        budget = generation_config.max_length - columns
        capacity = budget + settings.draft_length + (settings.block_size or 0) + 1
        state = Decoding(self, input_ids, rows, cache, choose, settings, capacity)
        drafter = build_drafter(settings)
        eos = next((c.eos_token_id for c in stopping_criteria if isinstance(c, EosTokenCriteria)), None)
        limits = [c for c in stopping_criteria if isinstance(c, MaxTimeCriteria)]
        limit = state.known + budget

        while bool(state.active.any()):
            # 1. Draft, where the bytes that a draft builds on are fed: not in the first round of a verified decoding.
            verifies, ready = drafter.verifies, bool(drafter.ready(state)[state.active].all())
            draft = drafter.draft(state) if ready else state.text[:, :0]
            state.count(drafted=draft.shape[1], iterations=1)
            show_draft(streamer, draft)
            # 2. and 3. Feed and accept.
            if verifies or not ready:
                choice = state.verify(draft)
                accepted = accept_greedy(draft, choice)
                # The accepted bytes are what was chosen in their places, so the choices are the new text.
                new, length = choice, accepted + 1
            else:
                new, accepted = draft, torch.full_like(state.known, draft.shape[1])
                length = accepted
            # 4. Stop or go on.
            length, stopped = cut_at_stop(new, length, eos, limit - state.known)
            length = torch.where(state.active, length, 0)
            state.count(accepted=torch.minimum(accepted, length))
            show_new(streamer, new, length)
            state.append(new, length)
            if verifies or not ready:
                cache.truncate(torch.minimum(cache.lengths, state.known - 1))
            state.active = state.active & ~stopped
            if any(bool(c(state.text, None).any()) for c in limits):
                break

        if streamer is not None:
            streamer.end()
        return self._finish(state, generation_config)

    def _finish(self, state: Decoding, generation_config):
        """Brings the caches up to the last byte but one, and the new bytes behind the prompt's columns."""
        new = state.known - state.first
        width = int(new.max())
        column = torch.arange(width, device=new.device)
        written = state.text.gather(1, state.first[:, None] + column)
        pad_id = generation_config.pad_token_id
        written = written.masked_fill(column >= new[:, None], 0 if pad_id is None else pad_id)
        sequences = torch.cat([state.prompt, written], dim=1)
        if generation_config.return_dict_in_generate and bool((state.pending > 0).any()):
            # For whoever continues from the cache; no byte of this text needed it, so it is not counted.
            state.active = torch.ones_like(state.active)
            feed(self.model, *state.unfed(last=1), state.cache)
        # The loop keeps to bytes; a caller who owns the cache counts columns.
        state.cache.columns = state.prompt.shape[1] + int((new - 1 - state.pending).min())
        if not generation_config.return_dict_in_generate:
            return sequences
        return FBLTGenerateOutput(sequences=sequences, past_key_values=state.cache, **state.counts)


def cut_at_stop(
    new: torch.Tensor, length: torch.Tensor, eos: torch.Tensor | None, room: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many of the first `length` new bytes `[batch, r]` remain before a stop, and which rows stop there.

    A stop id is kept as the row's last byte; `room` `[batch]` is how many bytes may still be written.
    """
    stopped = length >= room
    length = torch.minimum(length, room)
    if eos is not None:
        position = torch.arange(new.shape[1], device=new.device)
        found = torch.isin(new, eos.to(new.device)) & (position < length[:, None])
        until = torch.where(found, position + 1, new.shape[1] + 1).amin(1)
        stopped = stopped | found.any(1)
        length = torch.minimum(length, until)
    return length, stopped


def show_draft(streamer, draft: torch.Tensor) -> None:
    """Hands a streamer that wants drafts the first row's, before it is judged."""
    if draft.shape[1] and hasattr(streamer, "put_draft"):
        streamer.put_draft(value=draft[0].cpu())


def show_new(streamer, new: torch.Tensor, length: torch.Tensor) -> None:
    """Hands a streamer the first row's new bytes."""
    if streamer is not None and int(length[0]):
        streamer.put(new[0, : int(length[0])].cpu())


def check_supported(settings, generation_config, stopping_criteria, input_ids, model_kwargs) -> None:
    """Refuses what this loop cannot do yet, before any work.

    Raises:
        ValueError: names the argument and the remedy.
    """
    if generation_config.do_sample and settings.decoding in ("blt-s", "blt-dv"):
        raise ValueError(
            f"`do_sample` is True with `decoding={settings.decoding!r}`: verified decodings are greedy so far; sample "
            "with decoding='ar' or 'blt-d', or set do_sample=False."
        )
    asked = [
        name
        for name in ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
        if getattr(generation_config, name, None) and generation_config.return_dict_in_generate
    ]
    if asked:
        raise ValueError(
            f"`{asked[0]}` is not supported by FBLT's generate yet: call the model on the returned sequences."
        )
    known = (MaxLengthCriteria, EosTokenCriteria, MaxTimeCriteria)
    others = [type(c).__name__ for c in stopping_criteria if not isinstance(c, known)]
    if others:
        raise ValueError(
            f"`stopping_criteria` holds {others}: generate stops at max_new_tokens, max_time and eos_token_id so "
            "far; stop strings and criteria of your own are not supported yet."
        )
    if generation_config.use_cache is False:
        raise ValueError("`use_cache` is False: FBLT's generate always decodes with its cache; leave it True.")


__all__ = ["FBLTGenerateOutput", "FBLTGenerationConfig", "FBLTGenerationMixin"]
