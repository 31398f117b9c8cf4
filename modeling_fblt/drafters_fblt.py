# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The four decodings as drafters: each continues the known bytes with a draft."""

from collections.abc import Callable
from dataclasses import replace

import torch

from .compiled_networks_fblt import CompiledNetworks
from .counting_fblt import counting, scalar
from .draft_costs_fblt import DraftCosts, measured_costs
from .forward_steps_fblt import Block, draft_block, draft_bytes
from .gather_fblt import take_columns
from .generation_config_fblt import DecodingSettings
from .generation_state_fblt import Draft, GenerationState
from .lookup_fblt import SHORTEST_MATCH, copy_from, longest_match, with_copies
from .pace_fblt import FixedPace, Pace, Plan, Way, ways_of
from .processors_fblt import dead_ends
from .refinement_fblt import first_guess, refine
from .unmasking_fblt import IN_ORDER, by_confidence, by_entropy, from_left, in_one_step
from .utf8_fblt import allowed_ids, utf8_state, valid_prefix
from .verification_fblt import confident_length


def no_draft(state: GenerationState) -> Draft:
    return Draft(state.text[:, :0], counting(1, state.known.device).expand_as(state.known))


class VerifiedDrafter:
    """What verified drafters share.

    A row is drafted only once all its bytes before the carried one are fed. A draft is no longer than what may still be
    written, less the byte that verification adds. Rows whose draft is looked up take no part in composing one.

    Args:
        pace: how much to draft in a round, and in what way.
    """

    verifies = True

    def __init__(self, settings: DecodingSettings, pace: Pace | FixedPace):
        self.settings, self.pace = settings, pace
        self.copied: torch.Tensor | None = None

    def draft(self, state: GenerationState) -> Draft:
        ready = state.active
        if state.round == 0:  # alone in finding bytes that are not fed: the prompt's
            ready = (state.pending == 0) & (state.cache.lengths > 0) & ready
            if not bool(ready.any()):
                return no_draft(state)
        plan = self.pace.plan(ready)
        room = torch.where(ready, state.limit - state.known - 1, counting(1, ready.device))
        own, copied, self.copied = torch.minimum(plan.lengths, room), None, None
        if plan.looked_up is not None:
            where, copied = self._look_up(state, plan.looked_up)
            copied = torch.minimum(copied, room)
            self.copied = copied > 0
            own = torch.where(self.copied, 0, own)
        longest_copy = 0
        if plan.longest is not None and copied is None:
            r = min(plan.longest, state.room - 1)
        elif copied is None:
            r = int(own.max())  # waits for the device
        else:
            r, longest_copy = torch.stack([own.max(), copied.max()]).tolist()
        draft = self._own_draft(state, plan, own, r) if r > 0 else no_draft(state)
        if longest_copy > 0:
            text, known = state.fed_text()
            draft = with_copies(draft, copy_from(text, where, known, longest_copy), copied)
        return draft

    def _look_up(self, state: GenerationState, looked_up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where to copy each row's draft from, and how many bytes, `looked_up` `[batch]`: 0 where nothing matches."""
        longest = self.settings.max_matching_ngram_size
        where, matched = longest_match(*state.fed_text(), longest)
        return where, torch.where(matched >= min(SHORTEST_MATCH, longest), looked_up, 0)

    def _own_draft(self, state: GenerationState, plan: Plan, lengths: torch.Tensor, r: int) -> Draft:
        """A draft of at most `lengths` `[batch]` bytes, `r` in the longest row, for rows that are not looked up."""
        everyone = state.active
        if self.copied is not None:
            state.active = everyone & ~self.copied
        draft = self.compose(state, r, plan.passes)
        if self.settings.paper_passes:
            # The forced boundary was for this draft only.
            state.unfeed()
        draft.lengths = torch.minimum(draft.lengths, lengths)
        if plan.passes:
            draft = refine(state, draft.cut(r), plan.passes, self.settings.draft_confidence)
        state.active = everyone
        return draft

    def compose(self, state: GenerationState, r: int, passes: int) -> Draft:
        """A draft of up to `r` bytes, which `passes` refine."""
        raise NotImplementedError

    def observe(self, drafted: torch.Tensor, accepted: torch.Tensor) -> None:
        """Takes in a round's `[batch]` bytes, drafted and accepted."""
        self.pace.observe(drafted, accepted, self.copied)

    def select(self, rows: torch.Tensor) -> None:
        """Keeps what is known of the rows with these indices."""
        self.pace.select(rows)


class PlainDrafter(VerifiedDrafter):
    """`ar`: drafts nothing that is not looked up."""

    def draft(self, state: GenerationState) -> Draft:
        return no_draft(state) if self.settings.prompt_lookup_num_tokens is None else super().draft(state)


class CausalDrafter(VerifiedDrafter):
    """`blt-s`: the decoder goes on by itself, reading the last complete latent; byte by byte, or by passes over a first
    guess.
    """

    def compose(self, state: GenerationState, r: int, passes: int) -> Draft:
        if passes:
            return first_guess(state, r)
        lm, choose, settings = state.lm, state.choose, self.settings
        encodes = int(lm.config.decoder_config.input == "encoder")
        byte, offset, hidden = state.carried(), 0, None
        if settings.paper_passes:
            # The paper encodes the prefix with its last patch forced closed, which gives the first drafted byte too.
            ids, lengths = state.unfed(last=0)
            fed = state.feed(ids, lengths, close_patch=True)
            hidden = take_columns(fed.hidden, (lengths - 1).clamp(min=0)[:, None])
        drafted, proposals, confidence = state.text[:, :0], [], []
        for j in range(r):
            if hidden is None:
                hidden = draft_bytes(lm.model, byte, offset, state.cache)
                state.count(decoder_nfe=1, encoder_nfe=encodes)
                offset += 1
            scores = choose.after(state, lm.byte_logits(hidden), drafted, start=j)
            byte, hidden = choose.pick(scores), None
            drafted = torch.cat([drafted, byte], dim=1)
            if choose.do_sample or settings.draft_confidence is not None:
                proposals.append(torch.softmax(choose.choosable(scores).float(), dim=-1))
            if settings.draft_confidence is not None:
                # Judged by the likeliest byte, not by the drawn one: a length that hung on what was drawn would bias.
                confidence.append(proposals[-1].amax(-1))
                sure = confident_length(torch.cat(confidence, dim=1), settings.draft_confidence) > j
                if not bool((sure & state.active).any()):
                    break
        sure = torch.cat(confidence, dim=1) if confidence else torch.ones_like(drafted)
        lengths = confident_length(sure, settings.draft_confidence)
        return Draft(drafted, lengths, torch.cat(proposals, dim=1) if choose.do_sample else None)


class BlockFiller:
    """Fills a masked block after the known bytes, all positions at once or in steps (paper section 2).

    The block begins at the carried byte. With `block_anchor="patch"` it begins where the carried byte's patch does, as
    blocks of training do, provided that the patch's known bytes leave room in it.

    A draft head, where there is one, chooses the bytes from left to right, each given those before it. Unmasking by
    confidence or entropy fills positions in any order, so it takes the block's own logits.
    """

    def __init__(self, settings: DecodingSettings, closes_patch: bool, verified: bool):
        self.settings, self.closes_patch, self.verified = settings, closes_patch, verified

    def _known(self, state: GenerationState) -> int | None:
        """How many known bytes all blocks of active rows begin with, where that is clear without asking the device."""
        if self.settings.block_anchor == "byte" and (self.closes_patch or state.round > 0):
            return 0 if self.closes_patch else 1
        return None

    def place(self, state: GenerationState, end: torch.Tensor, begins: Callable[[], torch.Tensor]) -> Block:
        """The block to fill; see `place_block` of [`feed`] for `end` and `begins`."""
        size, known, given = self.settings.block_width(state.lm.config), state.known, self._known(state)
        if given is not None:
            masks = scalar(state.lm.config.mask_token_id, torch.long, known.device).expand(len(known), size - given)
            return Block(torch.cat([state.carried(), masks], dim=1) if given else masks, end)
        anchor = end
        if self.settings.block_anchor == "patch":
            patch = begins()
            anchor = torch.where(known - patch < size, patch, end)
        position = anchor[:, None] + counting(size, end.device)
        ids = state.text.gather(1, position.clamp(max=state.text.shape[1] - 1))
        return Block(ids.masked_fill(position >= known[:, None], state.lm.config.mask_token_id), anchor)

    def fill(self, state: GenerationState, feeds: bool, keeps_noise: bool = False) -> Draft:
        """A draft of all masked positions.

        Args:
            feeds: known bytes are fed in the decoder call of the first step.
            keeps_noise: each position is drawn with one noise, whatever the step, and the draft has it for passes.
        """
        lm, cache, mask_id = state.lm, state.cache, state.lm.config.mask_token_id

        def place(end: torch.Tensor, begins: Callable[[], torch.Tensor]) -> Block:
            return self.place(state, end, begins)

        if feeds:
            # The carried byte stands in the block, unless a boundary is forced after it, or nothing comes before it.
            last = torch.zeros_like(state.known) if self.closes_patch else (state.known > 1).long()
            ids, lengths = state.unfed(last)
            fed = state.feed(ids, lengths, place_block=place, close_patch=self.closes_patch)
            block, hidden = fed.block, fed.block_hidden
        else:
            block = place(cache.lengths, cache.open_start)
            hidden = draft_block(lm.model, block, cache)
            state.count(decoder_nfe=1)
        given = state.known - block.anchor  # known bytes in the block
        noise = noise_in_block = None
        in_order = self.settings.unmasking in IN_ORDER
        utf8 = self._allowed_first(state)
        record = {name: None for name in state.record if not self.verified}
        sampled = in_order and state.choose.do_sample
        judged = self.settings.unmasking != "one_step" or self.settings.draft_confidence is not None
        proposals = confidence = dead = probabilities = None
        for _ in range(block.ids.shape[1]):  # every step fills in one position of a row at least
            masked = block.ids == mask_id
            logits = scores = lm.byte_logits(hidden)
            if keeps_noise and state.choose.do_sample and noise is None:
                noise = state.choose.noise(logits)
                index = counting(noise.shape[1], given.device) - given[:, None]
                noise_in_block = take_columns(noise, index.clamp(min=0))
            if in_order and self.settings.draft_head:
                byte, logits, scores = self._from_left(state, block, hidden, logits, noise_in_block)
            else:
                ruled_out = None
                if utf8 is not None:
                    first = counting(masked.shape[1], given.device) == given[:, None]
                    ruled_out = first[..., None] & ~utf8[:, None]
                    scores = scores.masked_fill(ruled_out, -torch.inf)
                scores = state.choose.in_block(state, scores)
                if ruled_out is not None:
                    scores = scores.masked_fill(ruled_out, -torch.inf)  # a processor may have brought it back
                byte = state.choose.pick(scores, noise_in_block)
            if sampled or judged:
                probabilities = torch.softmax(state.choose.choosable(scores).float(), dim=-1)
            now = self._unmask(probabilities, masked)
            block.ids = torch.where(now, byte, block.ids)
            # In order, a byte is drawn from a distribution that only the bytes before it decide. In any other, what led
            # to it is forgotten.
            if sampled:
                proposals = _where(now[..., None], probabilities, proposals)
            if judged:
                confidence = _where(now, probabilities.amax(-1), confidence)
            if not self.verified:
                dead = _where(now, dead_ends(scores), dead)
            record = {
                name: _where(now[..., None], scores if name == "scores" else logits, record[name]) for name in record
            }
            if self.settings.unmasking == "one_step":
                break
            if not bool(((block.ids == mask_id) & state.active[:, None]).any()):
                break
            hidden = draft_block(lm.model, block, cache)
            state.count(decoder_nfe=(block.ids == mask_id).any(1).long())
        return self._after_known(state, block, given, proposals, confidence, record, noise, dead)

    def _from_left(
        self,
        state: GenerationState,
        block: Block,
        hidden: torch.Tensor,
        logits: torch.Tensor,
        noise: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The draft head's bytes, its logits and their processed scores at all positions, from left to right."""
        before = state.text.gather(1, (block.anchor - 1).clamp(min=0)[:, None])[:, 0]
        noise = state.choose.noise(logits) if noise is None else noise
        known = self._known_counts(state, block)

        def choose(corrected: torch.Tensor, i: int, filled: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scores = state.choose.in_order(state, corrected, block.anchor, filled, known)
            return scores, state.choose.pick(scores, None if noise is None else noise[:, i])

        masked = block.ids == state.lm.config.mask_token_id
        state.count(draft_head_nfe=masked.any(1).long() * masked.shape[1])
        step = None if state.cache.networks is None else state.cache.networks.head_step
        return state.lm.draft_head.fill(before, hidden, logits, block.ids, masked, choose, step)

    def _known_counts(self, state: GenerationState, block: Block) -> list[int]:
        """How many known bytes blocks begin with, over the rows. Only where it matters, and is not clear, is it read
        from the device.
        """
        if not state.choose.processors:
            return []
        known = self._known(state)
        return (state.known - block.anchor).unique().tolist() if known is None else [known]

    def _after_known(
        self, state: GenerationState, block: Block, given, proposals, confidence, record, noise, dead
    ) -> Draft:
        """A block without its `given` `[batch]` known bytes: what was drafted, padded where rows differ in them."""
        size, known = block.ids.shape[1], self._known(state)
        if known is None:
            index = (given[:, None] + counting(size, given.device)).clamp(max=size - 1)
            lengths = size - given
        else:
            lengths = scalar(size - known, torch.long, given.device).expand_as(given)

        def moved(values: torch.Tensor) -> torch.Tensor:
            if known is None:
                return take_columns(values, index)
            return values[:, known:]

        if confidence is not None:
            lengths = torch.minimum(lengths, confident_length(moved(confidence), self.settings.draft_confidence))
        return Draft(
            moved(block.ids),
            lengths,
            None if proposals is None else moved(proposals),
            {name: moved(values) for name, values in record.items()},
            None if noise is None else noise[:, : size - (known or 0)],
            None if dead is None else moved(dead),
        )

    def _unmask(self, probabilities: torch.Tensor | None, masked: torch.Tensor) -> torch.Tensor:
        """Positions to unmask now, `[batch, block_size]`."""
        if self.settings.unmasking == "confidence":
            return by_confidence(probabilities.amax(-1), masked, self.settings.confidence_threshold)
        if self.settings.unmasking == "sequential":
            return from_left(probabilities.amax(-1), masked, self.settings.confidence_threshold)
        if self.settings.unmasking == "entropy":
            entropy = -torch.xlogy(probabilities, probabilities).sum(-1)
            return by_entropy(entropy, masked, self.settings.entropy_bound)
        return in_one_step(masked)

    @staticmethod
    def _allowed_first(state: GenerationState) -> torch.Tensor | None:
        """Ids that keep the text valid UTF-8 right after the known bytes, `[batch, vocab]`, if asked for."""
        if state.choose.utf8 is None:
            return None
        return allowed_ids(utf8_state(_last_known(state)), state.limit - state.known)


def _last_known(state: GenerationState) -> torch.Tensor:
    """The last three known bytes, `[batch, 3]`; id 0 before a row's first."""
    position = state.known[:, None] + torch.arange(-3, 0, device=state.known.device)
    return state.text.gather(1, position.clamp(min=0)).masked_fill(position < 0, 0)


def _where(condition: torch.Tensor, values: torch.Tensor, otherwise: torch.Tensor | None) -> torch.Tensor:
    return values if otherwise is None else torch.where(condition, values, otherwise)


class VerifiedBlockDrafter(VerifiedDrafter):
    """`blt-dv`: a filled block, of which verification keeps what plain decoding would have written."""

    def compose(self, state: GenerationState, r: int, passes: int) -> Draft:
        settings, paper = self.settings, self.settings.paper_passes
        if not passes:
            return BlockFiller(settings, closes_patch=paper, verified=True).fill(state, feeds=paper)
        # How sure a byte is, is for the last pass to say.
        filler = BlockFiller(replace(settings, draft_confidence=None), closes_patch=paper, verified=True)
        if settings.unmasking in IN_ORDER:
            return filler.fill(state, feeds=paper, keeps_noise=True)
        # In any other order, a byte hangs on noise of later positions, which verification must find unused.
        choose = state.choose
        state.choose = choose.greedy()
        draft = filler.fill(state, feeds=paper)
        state.choose = choose
        return draft


class BlockDrafter:
    """`blt-d`: a filled block, taken as it is, or as passes refine it."""

    verifies = False

    def __init__(self, settings: DecodingSettings):
        self.settings = settings

    def draft(self, state: GenerationState) -> Draft:
        passes = self.settings.refine_steps
        filler = BlockFiller(self.settings, self.settings.close_patch, verified=False)
        draft = filler.fill(state, feeds=True, keeps_noise=passes > 0)
        if self.settings.close_patch:
            state.unfeed()
        if passes:
            draft = refine(state, draft, passes)
        if state.choose.utf8 is not None:
            # Positions were filled without knowing their neighbours: what does not fit is drafted again. The first
            # byte always fits.
            room = state.limit - state.known
            draft.lengths = valid_prefix(utf8_state(_last_known(state)), draft.ids, draft.lengths, room)
        return draft

    def select(self, rows: torch.Tensor) -> None:
        """Nothing is kept of rows."""


DRAFTERS = {"ar": PlainDrafter, "blt-s": CausalDrafter, "blt-dv": VerifiedBlockDrafter}


def build_drafter(settings: DecodingSettings, lm, networks: CompiledNetworks | None = None):
    """The drafter of a decoding; `networks` are those that it will call compiled."""
    if settings.decoding == "blt-d":
        return BlockDrafter(settings)
    return DRAFTERS[settings.decoding](settings, build_pace(settings, lm, networks))


def build_pace(settings: DecodingSettings, lm, networks: CompiledNetworks | None = None) -> Pace | FixedPace:
    """The pace of a verified decoding: chosen round by round if any setting is `"auto"`."""
    longest, looked_up = settings.longest_own_draft(lm.config), settings.prompt_lookup_num_tokens
    if not settings.adapts():
        return FixedPace(settings.passes()[0], longest, looked_up)
    least = 1 if settings.adapts_length() else longest

    def find_ways(rows: int) -> tuple[list[Way], Way | None]:
        cost = settings.draft_cost
        costs = measured_costs(lm, rows, max(longest, 2), networks) if cost is None else DraftCosts.given(cost)
        lengths, block = range(least, longest + 1) if longest else range(0), settings.block_width(lm.config)
        copies = range(1, looked_up + 1) if looked_up else range(0)
        return ways_of(costs, settings.passes(), lengths, block, copies, head=bool(settings.draft_head))

    return Pace(find_ways)
