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
from typing import Any

import torch
from transformers import GenerationMixin
from transformers.generation import GenerateDecoderOnlyOutput, GenerationMode, LogitsProcessorList
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria, MaxTimeCriteria

from .cache_fblt import FBLTCache
from .generation_config_fblt import DecodingSettings, FBLTGenerationConfig
from .rows_fblt import Rows
from .steps_fblt import Fed, draft_block, draft_byte, feed
from .unmasking_fblt import by_confidence, by_entropy, in_one_step
from .verification_fblt import accept_greedy

COUNTERS = ("decoder_nfe", "encoder_nfe", "global_nfe", "patcher_nfe", "drafted", "accepted", "iterations")


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


class Decoding:
    """State of one `generate` call, and the steps of the loop that drafters share.

    Attributes:
        prompt: `[batch, n]`, the columns given, padding included.
        first: `[batch]`, bytes of the prompt.
        text: `[batch, capacity]`, each row's known bytes, prompt included, right-padded.
        known: `[batch]`, how many there are.
        active: `[batch]`, rows that have not stopped.
        counts: one `[batch]` counter per name in `COUNTERS`.
    """

    def __init__(
        self,
        model,
        prompt: torch.Tensor,
        rows: Rows,
        cache: FBLTCache,
        choose: "Chooser",
        settings: DecodingSettings,
        capacity: int,
    ):
        self.lm, self.cache, self.choose, self.settings = model, cache, choose, settings
        self.prompt, self.first = prompt, rows.lengths
        self.known = rows.lengths.clone()
        self.text = torch.nn.functional.pad(rows.ids, (0, capacity))
        self.active = torch.ones_like(self.known, dtype=torch.bool)
        self.counts = {name: torch.zeros_like(self.known) for name in COUNTERS}

    @property
    def pending(self) -> torch.Tensor:
        """`[batch]`, bytes that are known but not fed, the carried one left out."""
        return self.known - 1 - self.cache.lengths

    def columns(self) -> torch.Tensor:
        """`[batch]`, columns of the prompt, padding included, and of what was written behind it."""
        return self.prompt.shape[1] + self.known - self.first

    def transcript(self, text: torch.Tensor, columns: int) -> torch.Tensor:
        """The prompt's columns, then the new bytes of `text` `[batch, *]`, up to `columns`: `[batch, columns]`."""
        place = self.first[:, None] + torch.arange(columns - self.prompt.shape[1], device=text.device)
        return torch.cat([self.prompt, text.gather(1, place.clamp(max=text.shape[1] - 1))], dim=1)

    def carried(self) -> torch.Tensor:
        """The last known byte of each row, `[batch, 1]`."""
        return self.text.gather(1, self.known[:, None] - 1)

    def unfed(self, last: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Known bytes not fed yet, save the last `last`, of active rows: ids `[batch, n]`, lengths `[batch]`."""
        start = self.cache.lengths
        lengths = torch.where(self.active, self.known - last - start, 0).clamp(min=0)
        position = start[:, None] + torch.arange(int(lengths.max()), device=start.device)
        return self.text.gather(1, position.clamp(max=self.text.shape[1] - 1)), lengths

    def append(self, new: torch.Tensor, length: torch.Tensor) -> None:
        """Adds the first `length` `[batch]` of `new` `[batch, r]` to the known bytes; capacity allows for all `r`."""
        behind = self.known[:, None] + torch.arange(new.shape[1], device=new.device)
        self.text.scatter_(1, behind, new)
        self.known = self.known + length

    def count(self, **amounts: int | torch.Tensor) -> None:
        """Adds to counters of active rows."""
        for name, amount in amounts.items():
            self.counts[name] += torch.where(self.active, amount, 0)

    def feed(self, ids: torch.Tensor, lengths: torch.Tensor, **block: Any) -> Fed:
        """Feeds bytes, and counts the networks that ran."""
        fed = feed(self.lm.model, ids, lengths, self.cache, **block)
        ran = (lengths > 0).long()
        self.count(patcher_nfe=ran, encoder_nfe=ran, global_nfe=(fed.completed > 0).long())
        self.count(decoder_nfe=ran if fed.block is None else 1)
        return fed

    def verify(self, draft: torch.Tensor) -> torch.Tensor:
        """Feeds what is pending, the carried byte and a draft `[batch, r]`; what plain decoding chooses after each.

        Returns:
            `[batch, r + 1]` bytes: after the carried byte, and after each drafted one.
        """
        r = draft.shape[1]
        ids, lengths = self.unfed(last=0)
        ids = torch.nn.functional.pad(ids, (0, r))
        behind = lengths[:, None] + torch.arange(r, device=ids.device)
        ids = ids.scatter(1, behind, draft)
        fed = self.feed(ids, torch.where(self.active, lengths + r, 0))
        judged = (lengths - 1).clamp(min=0)[:, None] + torch.arange(r + 1, device=ids.device)
        hidden = fed.hidden.gather(1, judged[..., None].expand(-1, -1, fed.hidden.shape[-1]))
        return self.choose(self, self.lm.byte_logits(hidden), draft)


# --- the four decodings ---


class PlainDrafter:
    """`ar`: drafts nothing."""

    verifies = True

    def ready(self, state: Decoding) -> torch.Tensor:
        return torch.ones_like(state.active)

    def draft(self, state: Decoding) -> torch.Tensor:
        return state.text[:, :0]


class CausalDrafter:
    """`blt-s`: the decoder goes on by itself, reading the last complete latent."""

    verifies = True

    def ready(self, state: Decoding) -> torch.Tensor:
        return (state.pending == 0) & (state.known > 1)

    def draft(self, state: Decoding) -> torch.Tensor:
        byte = state.carried()
        drafted = byte[:, :0]
        encodes = state.lm.config.decoder_config.input == "encoder"
        for offset in range(state.settings.draft_length):
            hidden = draft_byte(state.lm.model, byte, offset, state.cache)
            state.count(decoder_nfe=1, encoder_nfe=int(encodes))
            byte = state.choose(state, state.lm.byte_logits(hidden), drafted, last_only=True)
            drafted = torch.cat([drafted, byte], dim=1)
        return drafted


class BlockDrafter:
    """`blt-d` and `blt-dv`: a masked block behind the carried byte is filled in, all positions at once or in steps."""

    def __init__(self, verifies: bool):
        self.verifies = verifies

    def ready(self, state: Decoding) -> torch.Tensor:
        # What is pending shares the decoder call of a block that is not verified; verification feeds it all by itself.
        return ((state.pending == 0) | (not self.verifies)) & (state.known > 1)

    def draft(self, state: Decoding) -> torch.Tensor:
        settings, cache, lm = state.settings, state.cache, state.lm
        batch, mask_id = state.text.shape[0], lm.config.mask_token_id
        block = torch.full((batch, settings.block_size), mask_id, dtype=torch.long, device=state.text.device)
        given = 0 if settings.close_patch else 1
        if given:
            block[:, :1] = state.carried()
        ids, lengths = state.unfed(last=given)
        if ids.shape[1] == 0:
            hidden = draft_block(lm.model, block, cache)
            state.count(decoder_nfe=1)
        else:
            # Bytes accepted last time are fed in the same decoder call as the block's first step.
            hidden = state.feed(ids, lengths, block_ids=block, close_patch=settings.close_patch).block
        while True:
            masked = block == mask_id
            filled = self._fill(state, hidden, block, masked)
            block = torch.where(filled > 0, filled - 1, block)
            if not bool((block == mask_id)[state.active].any()):
                break
            hidden = draft_block(lm.model, block, cache)
            state.count(decoder_nfe=(block == mask_id).any(1).long())
        if settings.close_patch:
            # The forced boundary was for this draft only.
            cache.truncate(torch.minimum(cache.lengths, state.known - 1))
        return block[:, given:]

    @staticmethod
    def _fill(state: Decoding, hidden: torch.Tensor, block: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """Byte + 1 at positions to unmask now, 0 elsewhere: `[batch, block_size]`."""
        settings = state.settings
        scores = state.choose.scores(state, state.lm.byte_logits(hidden))
        byte = state.choose.pick(scores)
        probabilities = torch.softmax(scores.float(), dim=-1)
        if settings.unmasking == "confidence":
            now = by_confidence(probabilities.amax(-1), masked, settings.confidence_threshold)
        elif settings.unmasking == "entropy":
            entropy = -torch.xlogy(probabilities, probabilities).sum(-1)
            now = by_entropy(entropy, masked, settings.entropy_bound)
        else:
            now = in_one_step(masked)
        return torch.where(now, byte + 1, 0)


def build_drafter(settings: DecodingSettings):
    """The drafter of a decoding."""
    if settings.decoding == "ar":
        return PlainDrafter()
    if settings.decoding == "blt-s":
        return CausalDrafter()
    return BlockDrafter(verifies=settings.decoding == "blt-dv")


class Chooser:
    """Picks bytes from logits: processed as `generate` was asked to, then the most likely one or a sampled one."""

    def __init__(self, processors: LogitsProcessorList, do_sample: bool):
        self.processors, self.do_sample = processors, do_sample

    def pick(self, scores: torch.Tensor) -> torch.Tensor:
        """`[..., vocab]` scores -> `[...]` bytes."""
        if not self.do_sample:
            return scores.argmax(-1)
        probabilities = torch.softmax(scores.float(), dim=-1)
        return torch.multinomial(probabilities.flatten(0, -2), 1).view(scores.shape[:-1])

    def process(self, state: Decoding, logits: torch.Tensor, text: torch.Tensor, drafted: int) -> torch.Tensor:
        """Processed logits `[batch, vocab]` of the byte that follows the known bytes and `drafted` more of `text`.

        Processors count columns, and some look up each row's padding in them, while rows advance at their own pace. So
        rows are judged once per width, each where it has the columns that plain decoding would show.
        """
        width = state.columns() + drafted
        result = scores = logits.float()
        for columns in width[state.active].unique().tolist():
            processed = self.processors(state.transcript(text, columns), scores.clone())
            result = torch.where((width == columns)[:, None], processed, result)
        return result

    def scores(self, state: Decoding, logits: torch.Tensor) -> torch.Tensor:
        """Processed logits of a block, `[batch, block_size, vocab]`; every position is offered the known bytes."""
        if not self.processors:
            return logits
        return torch.stack([self.process(state, part, state.text, 0) for part in logits.unbind(1)], dim=1)

    def __call__(
        self, state: Decoding, logits: torch.Tensor, draft: torch.Tensor, last_only: bool = False
    ) -> torch.Tensor:
        """Bytes chosen after the known bytes and the first `0 .. r` bytes of a draft.

        Args:
            logits: `[batch, r + 1, vocab]`, or `[batch, 1, vocab]` of the last of these with `last_only`.
            draft: `[batch, r]`.

        Returns:
            `[batch, r + 1]`, or `[batch, 1]`.
        """
        if not self.processors:
            return self.pick(logits)
        r = draft.shape[1]
        text = torch.nn.functional.pad(state.text, (0, r))
        text = text.scatter(1, state.known[:, None] + torch.arange(r, device=text.device), draft)
        lengths = [r] if last_only else range(r + 1)
        scores = [self.process(state, part, text, j) for part, j in zip(logits.unbind(1), lengths, strict=True)]
        return self.pick(torch.stack(scores, dim=1))


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
