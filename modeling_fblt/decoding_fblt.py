# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The state of one `generate` call: what is known, what the caches hold, how bytes are chosen, what is counted."""

from typing import Any

import torch
import torch.nn.functional as F
from transformers.generation import LogitsProcessorList

from .cache_fblt import FBLTCache, PositionBuffer
from .generation_config_fblt import DecodingSettings
from .rows_fblt import Rows, gather_columns
from .steps_fblt import Fed, feed
from .verification_fblt import accept_greedy, accept_sampled

COUNTERS = ("decoder_nfe", "encoder_nfe", "global_nfe", "patcher_nfe", "drafted", "accepted", "iterations")


class Decoding:
    """State of one `generate` call, and the steps of the loop that drafters share.

    Attributes:
        prompt: `[batch, n]`, the columns given, padding included.
        first: `[batch]`, bytes of the prompt.
        text: `[batch, capacity]`, each row's known bytes, prompt included, right-padded.
        known: `[batch]`, how many there are.
        active: `[batch]`, rows that take part in this round.
        limit: `[batch]`, the most bytes a row may have.
        round: rounds of the loop done.
        counts: one `[batch]` counter per name in `COUNTERS`.
        acceptance: `[batch, longest draft + 1]`, rounds with a draft by how many bytes were kept of it.
        record: by the name of an output, what was asked for of it: `[batch, position, vocab]` of new bytes.
    """

    def __init__(
        self,
        model,
        prompt: torch.Tensor,
        rows: Rows,
        cache: FBLTCache,
        choose: "Chooser",
        settings: DecodingSettings,
        budget: int,
        overshoot: int,
        pad_id: int | None,
        outputs: list[str],
    ):
        self.lm, self.cache, self.choose, self.settings = model, cache, choose, settings
        self.prompt, self.first, self.round = prompt, rows.lengths, 0
        self.pad_id = 0 if pad_id is None else pad_id
        self.known, self.limit = rows.lengths.clone(), rows.lengths + budget
        longest = settings.longest_draft(model.config)
        self.text = F.pad(rows.ids, (0, budget + overshoot + longest + 1))
        self.acceptance = self.known.new_zeros(len(self.known), longest + 1)
        self.active = torch.ones_like(self.known, dtype=torch.bool)
        self.counts = {name: torch.zeros_like(self.known) for name in COUNTERS}
        self.record = {name: PositionBuffer() for name in outputs}

    @property
    def pending(self) -> torch.Tensor:
        """`[batch]`, bytes that are known but not fed, the carried one left out."""
        return self.known - 1 - self.cache.lengths

    @property
    def written(self) -> torch.Tensor:
        """`[batch]`, new bytes."""
        return self.known - self.first

    def transcript(self, text: torch.Tensor, new: int) -> torch.Tensor:
        """The prompt's columns, then the first `new` new bytes of `text` `[batch, *]`: `[batch, n + new]`."""
        place = self.first[:, None] + torch.arange(new, device=text.device)
        return torch.cat([self.prompt, text.gather(1, place.clamp(max=text.shape[1] - 1))], dim=1)

    def padded(self, new: int, written: torch.Tensor) -> torch.Tensor:
        """The prompt's columns and `new` more, padding behind each row's `written` `[batch]` new bytes."""
        column = torch.arange(self.prompt.shape[1] + new, device=written.device)
        behind = column >= self.prompt.shape[1] + written[:, None]
        return self.transcript(self.text, new).masked_fill(behind, self.pad_id)

    def carried(self) -> torch.Tensor:
        """The last known byte of each row, `[batch, 1]`."""
        return self.text.gather(1, self.known[:, None] - 1)

    def with_draft(self, draft: torch.Tensor) -> torch.Tensor:
        """The text with a draft `[batch, r]` behind the known bytes; capacity allows for it."""
        behind = self.known[:, None] + torch.arange(draft.shape[1], device=draft.device)
        return self.text.scatter(1, behind, draft)

    def unfed(self, last: int | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Known bytes not fed yet, save the last `last`, of active rows: ids `[batch, n]`, lengths `[batch]`."""
        start = self.cache.lengths
        lengths = torch.where(self.active, self.known - last - start, 0).clamp(min=0)
        position = start[:, None] + torch.arange(int(lengths.max()), device=start.device)
        return self.text.gather(1, position.clamp(max=self.text.shape[1] - 1)), lengths

    def append(self, new: torch.Tensor, length: torch.Tensor, **record: torch.Tensor) -> None:
        """Adds the first `length` `[batch]` of `new` `[batch, r]` to the known bytes, and what is recorded of them."""
        self.text = self.with_draft(new)
        column = self.written[:, None] + torch.arange(new.shape[1], device=new.device)
        for name, buffer in self.record.items():
            buffer.write(record[name].float(), column, int(self.written.max()) + new.shape[1])
        self.known = self.known + length

    def recorded(self) -> dict[str, tuple[torch.Tensor, ...]]:
        """What was recorded, one `[batch, vocab]` per new byte of the longest row; zero behind a row's last."""
        width = int(self.written.max())
        behind = torch.arange(width, device=self.known.device) >= self.written[:, None]
        return {
            name: buffer.read(0, width).masked_fill(behind[..., None], 0).unbind(1)
            for name, buffer in self.record.items()
        }

    def take_back(self, written: torch.Tensor) -> None:
        """Leaves `[batch]` new bytes of each row, in text and caches."""
        self.known = torch.minimum(self.known, self.first + written)
        self.unfeed()

    def unfeed(self) -> None:
        """Takes the caches back to the bytes before the carried one."""
        self.cache.truncate(torch.minimum(self.cache.lengths, (self.known - 1).clamp(min=0)))

    def count(self, **amounts: int | torch.Tensor) -> None:
        """Adds to counters of active rows."""
        for name, amount in amounts.items():
            self.counts[name] += torch.where(self.active, amount, 0)

    def count_accepted(self, drafted: torch.Tensor, kept: torch.Tensor) -> None:
        """Counts a round's `[batch]` drafted bytes that were kept."""
        self.count(accepted=kept)
        took_part = (self.active & (drafted > 0)).long()
        self.acceptance.scatter_add_(1, kept[:, None], took_part[:, None])

    def feed(self, ids: torch.Tensor, lengths: torch.Tensor, **block: Any) -> Fed:
        """Feeds bytes, and counts the networks that ran."""
        fed = feed(self.lm.model, ids, lengths, self.cache, **block)
        ran = (lengths > 0).long()
        self.count(patcher_nfe=ran, encoder_nfe=ran, global_nfe=(fed.completed > 0).long())
        self.count(decoder_nfe=ran if fed.block is None else 1)
        return fed

    def feed_with(self, draft: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Feeds what is pending, the carried byte and the first `lengths` `[batch]` bytes of a draft `[batch, r]`.

        Returns:
            Next-byte logits after the carried byte, and after each drafted one: `[batch, r + 1, vocab]`.
        """
        r = draft.shape[1]
        ids, before = self.unfed(last=0)
        behind = before[:, None] + torch.arange(r, device=ids.device)
        ids = F.pad(ids, (0, r)).scatter(1, behind, draft)
        fed = self.feed(ids, torch.where(self.active, before + lengths, 0))
        judged = (before - 1).clamp(min=0)[:, None] + torch.arange(r + 1, device=ids.device)
        return self.lm.byte_logits(gather_columns(fed.hidden, judged))


class Chooser:
    """Picks bytes from logits: processed as `generate` was asked to, then the most likely one or a sampled one.

    A processor that keeps text valid UTF-8 looks at the bytes right before, which a block's positions do not have:
    blocks leave it to their drafter.
    """

    def __init__(self, processors: LogitsProcessorList, do_sample: bool):
        self.processors, self.do_sample = processors, do_sample
        self.utf8 = next((p for p in processors if getattr(p, "keeps_utf8", False)), None)
        self.blockwise = LogitsProcessorList([p for p in processors if p is not self.utf8])

    def pick(self, scores: torch.Tensor) -> torch.Tensor:
        """`[..., vocab]` scores -> `[...]` bytes."""
        if not self.do_sample:
            return scores.argmax(-1)
        return self.draw(torch.softmax(scores.float(), dim=-1))

    @staticmethod
    def draw(probabilities: torch.Tensor) -> torch.Tensor:
        """`[..., vocab]` probabilities -> `[...]` bytes."""
        return torch.multinomial(probabilities.flatten(0, -2), 1).view(probabilities.shape[:-1])

    def at(
        self, state: Decoding, logits: torch.Tensor, text: torch.Tensor, drafted: int, processors: LogitsProcessorList
    ) -> torch.Tensor:
        """Processed logits `[batch, vocab]` of the byte that follows the known bytes and `drafted` more of `text`.

        Processors count columns, and some look up each row's padding in them, while rows advance at their own pace. So
        rows are judged once per width, each where it has the columns that plain decoding would show.
        """
        width = state.written + drafted
        result = scores = logits.float()
        for new in width[state.active].unique().tolist():
            processed = processors(state.transcript(text, new), scores.clone())
            result = torch.where((width == new)[:, None], processed, result)
        return result

    def in_block(self, state: Decoding, logits: torch.Tensor) -> torch.Tensor:
        """Processed logits of a block, `[batch, block_size, vocab]`; every position is offered the known bytes."""
        if not self.blockwise:
            return logits
        parts = [self.at(state, part, state.text, 0, self.blockwise) for part in logits.unbind(1)]
        return torch.stack(parts, dim=1)

    def after(self, state: Decoding, logits: torch.Tensor, draft: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Processed logits after the known bytes and the first `start, start + 1, ...` bytes of a draft `[batch, r]`.

        Args:
            logits: `[batch, n, vocab]`, of these prefixes.

        Returns:
            `[batch, n, vocab]`.
        """
        if not self.processors:
            return logits
        text = state.with_draft(draft)
        parts = [self.at(state, part, text, start + j, self.processors) for j, part in enumerate(logits.unbind(1))]
        return torch.stack(parts, dim=1)

    def verify(self, draft, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What plain decoding keeps of a draft, and the byte it puts behind.

        Args:
            draft: a `Draft` of `r` bytes.
            scores: `[batch, r + 1, vocab]`, see [`after`].

        Returns:
            `[batch, r + 1]`, the accepted bytes and the one behind them; `[batch]`, accepted bytes.
        """
        if not self.do_sample:
            choice = scores.argmax(-1)
            # The accepted bytes are what was chosen in their places, so the choices are the new text.
            return choice, accept_greedy(draft.ids, draft.lengths, choice)
        target = torch.softmax(scores.float(), dim=-1)
        uniform = torch.rand(draft.ids.shape, device=draft.ids.device)
        accepted, following = accept_sampled(draft.ids, draft.lengths, target, draft.proposals, uniform)
        return F.pad(draft.ids, (0, 1)).scatter(1, accepted[:, None], self.draw(following)[:, None]), accepted
