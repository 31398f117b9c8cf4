# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""How bytes are chosen from logits: by processors, greedily or by sampling, and what is kept of a draft."""

from copy import copy

import torch
import torch.nn.functional as F
from transformers.generation import LogitsProcessorList

from .counting_fblt import counting
from .generation_state_fblt import Draft, GenerationState
from .processors_fblt import FBLTLastProcessor, dead_ends, find_processor
from .verification_fblt import accept_greedy, accept_sampled


class ByteChoice:
    """Picks bytes from logits: processed as `generate` was asked to, then the most likely one or a sampled one.

    The processor that keeps text valid UTF-8 looks at the bytes right before the one to choose. In a block these are
    not known yet, so there the drafter takes care of it.

    Args:
        processors: pure functions of prefix and scores, or called for one byte after the other.
        mask_id: `<mask>`, which is never chosen.
    """

    def __init__(self, processors: LogitsProcessorList, do_sample: bool, mask_id: int):
        self.do_sample, self.mask_id = do_sample, mask_id
        self.utf8 = find_processor(processors, "keeps_utf8")
        self.processors = self._closed(list(processors), self.utf8)
        self.blockwise = self._closed([p for p in processors if p is not self.utf8], None)

    def _closed(self, processors: list, utf8) -> LogitsProcessorList:
        last = [FBLTLastProcessor(self.mask_id, utf8)] if processors else []
        return LogitsProcessorList([*processors, *last])

    def pick(self, scores: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """`[..., vocab]` scores -> `[...]` bytes.

        Args:
            noise: of the scores' shape, see [`noise`]; fresh when None.
        """
        if not self.do_sample:
            return scores.argmax(-1)
        probabilities = torch.softmax(self.choosable(scores).float(), dim=-1)
        return self.draw(probabilities) if noise is None else (probabilities / noise).argmax(-1)

    def noise(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Random numbers to pick with, for logits of this shape; None where nothing is sampled.

        The id of the largest `probability / noise` is distributed as the probabilities are, if noise is exponential.
        """
        if not self.do_sample:
            return None
        noise = torch.empty_like(logits, dtype=torch.float32).exponential_()
        return noise.clamp_(min=torch.finfo(noise.dtype).tiny)

    def greedy(self) -> "ByteChoice":
        """The same processors, and the most likely byte."""
        same = copy(self)
        same.do_sample = False
        return same

    def choosable(self, scores: torch.Tensor) -> torch.Tensor:
        """`[..., vocab]` scores with any id as likely as another, `<mask>` left out, where there was nothing to choose.

        So a draw is always possible. What is drawn there does not become text: where text hangs on it, the call ends
        with an error, see [`GenerationState.note_dead_ends`].
        """
        dead = dead_ends(scores)[..., None]
        ids = counting(scores.shape[-1], scores.device)
        return torch.where(dead, torch.where(ids == self.mask_id, -torch.inf, 0.0).to(scores.dtype), scores)

    @staticmethod
    def draw(probabilities: torch.Tensor) -> torch.Tensor:
        """`[..., vocab]` probabilities -> `[...]` bytes."""
        return torch.multinomial(probabilities.flatten(0, -2), 1).view(probabilities.shape[:-1])

    def at(
        self,
        state: GenerationState,
        logits: torch.Tensor,
        text: torch.Tensor,
        drafted: int,
        processors: LogitsProcessorList,
    ) -> torch.Tensor:
        """Processed logits `[batch, vocab]` of the byte that follows the known bytes and `drafted` more of `text`.

        Processors count columns, but rows advance at their own pace, and have different numbers of them. So processors
        are called once per number of columns, and each row takes the call that shows it as plain decoding would.
        """
        result = scores = logits.float()
        widths = state.widths()
        for new in widths:
            asked = (state.written == new)[:, None]
            transcript = state.transcript(text, new + drafted)
            if len(widths) > 1:
                # Other rows show a prefix too that can be text, so that a processor does not stumble over it.
                transcript = torch.where(asked, transcript, transcript[asked.long().argmax()])
            result = torch.where(asked, processors(transcript, scores.clone()), result)
        return result

    def in_block(self, state: GenerationState, logits: torch.Tensor) -> torch.Tensor:
        """Processed logits of a block, `[batch, block_size, vocab]`; processors see the known bytes alone."""
        if not self.blockwise:
            return logits
        parts = [self.at(state, part, state.text, 0, self.blockwise) for part in logits.unbind(1)]
        return torch.stack(parts, dim=1)

    def in_order(
        self, state: GenerationState, logits: torch.Tensor, anchor: torch.Tensor, filled: torch.Tensor, known: list[int]
    ) -> torch.Tensor:
        """Processed logits `[batch, vocab]` of a block's next position, which is offered the true bytes before it.

        Args:
            anchor: `[batch]`, where the block begins, at the latest after the known bytes.
            filled: `[batch, n]`, its bytes before the position, known ones included.
            known: the numbers of known bytes that there are in the rows' blocks.
        """
        if not self.processors:
            return logits
        n, result = filled.shape[1], logits.float()
        text = state.text.scatter(1, anchor[:, None] + counting(n, anchor.device), filled)
        for count in known:
            scores = self.at(state, logits, text, max(n - count, 0), self.processors)
            result = torch.where((state.known - anchor == count)[:, None], scores, result)
        return result

    def after(self, state: GenerationState, logits: torch.Tensor, draft: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Processed logits after the known bytes and the first `start, start + 1, ...` bytes of a draft `[batch, r]`.

        Args:
            logits: `[batch, n, vocab]`, of these prefixes.

        Returns:
            `[batch, n, vocab]`.
        """
        if not self.processors:
            return logits
        text, parts = state.with_draft(draft), []
        for j, part in enumerate(logits.unbind(1)):
            parts.append(self.at(state, part, text, start + j, self.processors))
            if start + j < draft.shape[1]:
                # Where processors rule the drafted byte out, the draft ends, and what comes after it is not used. They
                # are not shown it: a constraint may have no answer for a prefix that it does not allow.
                byte = draft[:, start + j, None]
                best = torch.where(parts[-1].gather(1, byte).isneginf(), parts[-1].argmax(-1, keepdim=True), byte)
                text = text.scatter(1, state.known[:, None] + start + j, best)
        return torch.stack(parts, dim=1)

    def verify(self, draft: Draft, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What plain decoding keeps of a draft, and the byte that it puts after it.

        Args:
            draft: of `r` bytes.
            scores: `[batch, r + 1, vocab]`, see [`after`].

        Returns:
            `[batch, r + 1]`, the accepted bytes and the one after them; `[batch]`, how many were accepted.
        """
        if not self.do_sample:
            choice = scores.argmax(-1)
            # An accepted byte is the one that was chosen at its position, so the choices are the new text.
            return choice, accept_greedy(draft.ids, draft.lengths, choice)
        if draft.noise is not None:
            # The bytes are drawn with the random numbers that the draft was drawn with, so the draws are the new text.
            more = self.noise(scores[:, draft.noise.shape[1] :])
            choice = self.pick(scores, torch.cat([draft.noise, more], dim=1))
            return choice, accept_greedy(draft.ids, draft.lengths, choice)
        target = torch.softmax(self.choosable(scores).float(), dim=-1)
        uniform = torch.rand(draft.ids.shape, device=draft.ids.device)
        accepted, following = accept_sampled(draft.ids, draft.lengths, target, draft.proposals, uniform)
        return F.pad(draft.ids, (0, 1)).scatter(1, accepted[:, None], self.draw(following)[:, None]), accepted
