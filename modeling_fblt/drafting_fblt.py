# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The state of a decoding loop, and the four decodings as drafters: each continues the known bytes with a draft."""

from typing import Any

import torch
from transformers.generation import LogitsProcessorList

from .cache_fblt import FBLTCache
from .generation_config_fblt import DecodingSettings
from .rows_fblt import Rows
from .steps_fblt import Fed, draft_block, draft_byte, feed
from .unmasking_fblt import by_confidence, by_entropy, in_one_step

COUNTERS = ("decoder_nfe", "encoder_nfe", "global_nfe", "patcher_nfe", "drafted", "accepted", "iterations")


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
