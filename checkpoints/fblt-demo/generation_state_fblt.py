# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The state of one `generate` call: what is known, what the caches hold, what is counted."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from .buffers_fblt import PositionBuffer
from .cache_fblt import FBLTCache
from .counting_fblt import counting
from .forward_steps_fblt import Fed, feed
from .gather_fblt import take_columns
from .generation_config_fblt import DecodingSettings
from .padding_fblt import RightPadded
from .processors_fblt import NONE_LEFT

if TYPE_CHECKING:
    from .byte_choice_fblt import ByteChoice

# Bytes by which the text's buffer is longer than what is known, at least, whenever it has to grow.
ROOM = 512
# In this order, what a round counts alike stands together: see [`GenerationState.count`].
COUNTERS = ("draft_head_nfe", "decoder_nfe", "encoder_nfe", "patcher_nfe", "iterations")
COUNTERS += ("global_nfe", "drafted", "accepted")
BY_ROW = ("prompt", "first", "text", "known", "active", "limit", "acceptance")  # tensors of a state


@dataclass
class Draft:
    """Bytes that continue the known ones.

    Attributes:
        ids: `[batch, r]`.
        lengths: `[batch]`, how many of them were drafted.
        proposals: `[batch, r, vocab]`, the distribution each byte was drawn from, where it is known.
        record: what is recorded of the bytes if they are kept unverified, see [`Decoding`].
        noise: `[batch, r, vocab]`, random numbers of its draws, with which verification is to draw too, see [`refine`].
        dead: `[batch, r]`, where nothing was left to choose; of drafts that are kept unverified.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    proposals: torch.Tensor | None = None
    record: dict[str, torch.Tensor] | None = None
    noise: torch.Tensor | None = None
    dead: torch.Tensor | None = None

    def cut(self, r: int) -> "Draft":
        """Its first `r` columns."""
        proposals = None if self.proposals is None else self.proposals[:, :r]
        record = None if self.record is None else {name: values[:, :r] for name, values in self.record.items()}
        noise = None if self.noise is None else self.noise[:, :r]
        return Draft(self.ids[:, :r], self.lengths.clamp(max=r), proposals, record, noise)


class GenerationState:
    """State of one `generate` call, and the steps of the loop that drafters share.

    Attributes:
        prompt: `[batch, n]`, the columns given, padding included and on the left.
        first: `[batch]`, bytes of the prompt.
        text: `[batch, capacity]`, each row's known bytes, prompt included, right-padded. It grows with them.
        known: `[batch]`, how many there are.
        active: `[batch]`, rows that take part in this round.
        limit: `[batch]`, the most bytes a row may have.
        room: a bound of the bytes that a row may still write, kept on the host.
        running: rows that have not ended, kept on the host.
        longest: the most bytes that a row has, kept on the host.
        level: whether all rows have as many bytes, kept on the host.
        chose: whether all rows had a byte to choose wherever they wrote in this round.
        round: rounds of the loop done.
        acceptance: `[batch, longest draft + 1]`, rounds with a draft by how many bytes were kept of it.
        record: by name of a requested output (`scores`, `logits`), its values for the new bytes, `[batch, n, vocab]`.
    """

    def __init__(
        self,
        model,
        rows: RightPadded,
        cache: FBLTCache,
        choose: "ByteChoice",
        settings: DecodingSettings,
        budget: int,
        overshoot: int,
        pad_id: int | None,
        outputs: list[str],
    ):
        self.lm, self.cache, self.choose, self.settings = model, cache, choose, settings
        self.prompt, self.first, self.round = rows.left_padded(), rows.lengths, 0
        self.pad_id = 0 if pad_id is None else pad_id
        self.known, self.limit = rows.lengths.clone(), rows.lengths + budget
        self.budget = self.room = budget
        self.running = len(self.known)
        longest = settings.longest_draft(model.config)
        # Columns that a round may write after the known bytes of a row.
        self.spare = overshoot + longest + 1
        self.text, self.longest, self.level = rows.ids, rows.ids.shape[1], False
        self._make_room()
        self.chose = torch.ones((), dtype=torch.bool, device=rows.ids.device)
        self.acceptance = self.known.new_zeros(len(self.known), longest + 1)
        self.active = torch.ones_like(self.known, dtype=torch.bool)
        self._tally = self.known.new_zeros(len(COUNTERS), len(self.known))
        # Amounts that are not in the tally yet, and the active rows that they are of.
        self._pending: dict[str, int | torch.Tensor] = {}
        self._counted = self.active
        self.record = {name: PositionBuffer() for name in outputs}
        self._widths: tuple[tuple[torch.Tensor, torch.Tensor], list[int]] | None = None

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
        position = self.first[:, None] + counting(new, text.device)
        return torch.cat([self.prompt, text.gather(1, position.clamp(max=text.shape[1] - 1))], dim=1)

    def padded(self, new: int, written: torch.Tensor) -> torch.Tensor:
        """The prompt's columns and `new` more, padded after each row's `written` `[batch]` new bytes."""
        column = counting(self.prompt.shape[1] + new, written.device)
        padding = column >= self.prompt.shape[1] + written[:, None]
        return self.transcript(self.text, new).masked_fill(padding, self.pad_id)

    def carried(self) -> torch.Tensor:
        """The last known byte of each row, `[batch, 1]`."""
        if self.level:
            return self.text[:, self.longest - 1 : self.longest]
        return self.text.gather(1, self.known[:, None] - 1)

    def with_draft(self, draft: torch.Tensor) -> torch.Tensor:
        """The text with a draft `[batch, r]` after the known bytes; it has room for one."""
        position = self.known[:, None] + counting(draft.shape[1], draft.device)
        return self.text.scatter(1, position, draft)

    def fed_text(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What is fed, and the carried byte: `[batch, n]`, and how many bytes of it are known, `[batch]`.

        Rows with more bytes that are not fed are cut short.
        """
        text = self.text[:, : self.cache.max_length + 1]
        return text, self.known.clamp(max=text.shape[1])

    def unfed(self, last: int | torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Known bytes not fed yet, save the last `last`, of active rows: ids `[batch, n]`, lengths `[batch]`."""
        start = self.cache.lengths
        lengths = torch.where(self.active, self.known - last - start, 0).clamp(min=0)
        position = start[:, None] + counting(int(lengths.max()), start.device)
        return self.text.gather(1, position.clamp(max=self.text.shape[1] - 1)), lengths

    def append(self, new: torch.Tensor, length: torch.Tensor, **record: torch.Tensor) -> None:
        """Adds the first `length` `[batch]` of `new` `[batch, r]` to the known bytes, and what is recorded of them."""
        if self.level:
            self.text[:, self.longest : self.longest + new.shape[1]] = new
        else:
            self.text = self.with_draft(new)
        if self.record:
            column = self.written[:, None] + counting(new.shape[1], new.device)
            end = int(self.written.max()) + new.shape[1]
            for name, buffer in self.record.items():
                buffer.write(record[name].float(), column, end)
        self.known = self.known + length

    def recorded(self) -> dict[str, tuple[torch.Tensor, ...]]:
        """What was recorded, one `[batch, vocab]` per new byte of the longest row; zero after a row's last."""
        width = int(self.written.max())
        padding = counting(width, self.known.device) >= self.written[:, None]
        return {
            name: buffer.read(0, width).masked_fill(padding[..., None], 0).unbind(1)
            for name, buffer in self.record.items()
        }

    def _make_room(self) -> None:
        """Lengthens the text's buffer, by its own length and so seldom, where the next round might exceed it."""
        if self.text.shape[1] < self.longest + self.spare:
            self.text = F.pad(self.text, (0, max(self.longest, ROOM) + self.spare))

    def note_choices(self, choice: torch.Tensor, length: torch.Tensor) -> None:
        """Notes whether rows that keep bytes, the first `length` `[batch]` of `choice` `[batch, r]`, chose them all."""
        beyond = counting(choice.shape[1], choice.device) >= length[:, None]
        self.chose = (choice | beyond).all()

    def has_ended(self, ended: torch.Tensor) -> bool:
        """Whether all rows have; the round's one wait for `[batch]` `ended`, which also updates `room`, `longest`,
        `level` and `running`.

        Raises:
            ValueError: a row had to write where no byte was left to choose.
        """
        rows = len(ended)
        asked = torch.cat([self.known, self.written, ended, self.chose[None]]).tolist()
        known, written, over = (asked[i * rows : (i + 1) * rows] for i in range(3))
        if not asked[-1]:
            raise ValueError(f"`logits_processor`, or the weights: {NONE_LEFT}.")
        self.running, self.longest, self.level = over.count(0), max(known), len({*known}) == 1
        left = [self.budget - new for new, end in zip(written, over, strict=True) if not end]
        self.room = max(left, default=0)
        self._make_room()
        return self.running == 0

    def widths(self) -> list[int]:
        """New bytes that active rows have, each number once; the device is asked once while they stay the same."""
        asked = (self.known, self.active)
        if self._widths is None or any(a is not b for a, b in zip(asked, self._widths[0], strict=True)):
            self._widths = asked, self.written[self.active].unique().tolist()
        return self._widths[1]

    def take_back(self, written: torch.Tensor) -> None:
        """Leaves `[batch]` new bytes of each row, in text and caches."""
        self.known, self.level = torch.minimum(self.known, self.first + written), False
        self.unfeed()

    def unfeed(self) -> None:
        """Takes the caches back to the bytes before the carried one."""
        self.cache.take_back(torch.minimum(self.cache.lengths, (self.known - 1).clamp(min=0)))

    def select(self, rows: torch.Tensor) -> None:
        """Keeps the rows with these indices."""
        self._add_up()
        for name in BY_ROW:
            setattr(self, name, getattr(self, name).index_select(0, rows))
        self._tally = self._tally.index_select(1, rows)
        for part in (self.cache, *self.record.values()):
            part.select(rows)

    def part(self, rows: torch.Tensor) -> "GenerationState":
        """The state of the rows with these indices, with a cache of their own; this one stays as it is."""
        self._add_up()
        part = copy(self)
        part.cache = self.cache.twin()
        part.record = {name: copy(buffer) for name, buffer in self.record.items()}
        part.select(rows)
        return part

    def join(self, others: Sequence["GenerationState"], order: torch.Tensor) -> None:
        """Takes in the rows of other states of this call; then those of all, these first, are put in `order`."""
        self.longest, self.level = max(state.longest for state in (self, *others)), False
        columns = max(state.text.shape[1] for state in (self, *others))
        for state in (self, *others):
            state.text = F.pad(state.text, (0, columns - state.text.shape[1]))
        for name in BY_ROW:
            setattr(self, name, torch.cat([getattr(state, name) for state in (self, *others)]))
        for state in (self, *others):
            state._add_up()
        self._tally = torch.cat([state._tally for state in (self, *others)], dim=1)
        self.cache.join([state.cache for state in others])
        for name, buffer in self.record.items():
            buffer.join([state.record[name] for state in others])
        self.select(order)

    @property
    def counts(self) -> dict[str, torch.Tensor]:
        """One `[batch]` counter per name in `COUNTERS`."""
        self._add_up()
        return {name: counter.clone() for name, counter in zip(COUNTERS, self._tally, strict=True)}

    def count(self, **amounts: int | torch.Tensor) -> None:
        """Adds to counters of active rows. What a round adds is kept, so that few operators add it all."""
        if self._counted is not self.active:
            self._add_up()
            self._counted = self.active
        for name, amount in amounts.items():
            self._pending[name] = amount + self._pending[name] if name in self._pending else amount

    def _add_up(self) -> None:
        pending, self._pending = self._pending, {}
        alike: list[tuple[int, list]] = []  # counters that stand together: where they begin, and their amounts
        for i, name in enumerate(COUNTERS):
            amount = pending.get(name)
            if amount is None:
                continue
            begin, found = alike[-1] if alike else (-1, [])
            known = isinstance(amount, int)
            joins = begin + len(found) == i and known == isinstance(found[0], int) and (not known or found[0] == amount)
            if joins:
                found.append(amount)
            else:
                alike.append((i, [amount]))
        for begin, found in alike:
            counters = self._tally[begin : begin + len(found)]
            if isinstance(found[0], int):
                counters.add_(self._counted, alpha=found[0])
            else:
                counters.add_((found[0] if len(found) == 1 else torch.stack(found)) * self._counted)

    def count_draft(self, draft: Draft, accepted: torch.Tensor, kept: torch.Tensor) -> None:
        """Counts a round's draft, of which `accepted` `[batch]` bytes were accepted and `kept` may stay."""
        if draft.ids.shape[1] == 0:
            return
        accepted = torch.minimum(accepted, kept)
        self.count(drafted=draft.lengths, accepted=accepted)
        took_part = draft.lengths.clamp(max=1) * self.active
        self.acceptance.scatter_add_(1, accepted[:, None], took_part[:, None])

    def feed(self, ids: torch.Tensor, lengths: torch.Tensor, all_active: bool = False, **block: Any) -> Fed:
        """Feeds bytes, and counts the networks that ran.

        Args:
            all_active: whether the active rows are those that `lengths` `[batch]` says have any.
        """
        fed = feed(self.lm.model, ids, lengths, self.cache, **block)
        ran = 1 if all_active else (lengths > 0).long()
        self.count(encoder_nfe=ran, global_nfe=fed.completed.clamp(max=1))
        self.count(decoder_nfe=ran if fed.block is None else 1)
        if self.lm.model.patcher is not None:  # patches of a fixed length, or at spaces, need none
            self.count(patcher_nfe=ran)
        return fed

    def feed_with(self, draft: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Feeds what is pending, the carried byte and the first `lengths` `[batch]` bytes of a draft `[batch, r]`.

        Rows that are not active have no draft.

        Returns:
            Next-byte logits after the carried byte, and after each drafted one: `[batch, r + 1, vocab]`.
        """
        r = draft.shape[1]
        if self.round > 0:  # all that is known and not fed is the carried byte: the last round fed what was before it
            ids = torch.cat([self.carried(), draft], dim=1) if r else self.carried()
            return self.lm.byte_logits(self.feed(ids, lengths + self.active, all_active=True).hidden)
        ids, before = self.unfed(last=0)
        index = before[:, None] + counting(r, ids.device)
        ids = F.pad(ids, (0, r)).scatter(1, index, draft)
        fed = self.feed(ids, torch.where(self.active, before + lengths, 0))
        judged = (before - 1).clamp(min=0)[:, None] + counting(r + 1, ids.device)
        return self.lm.byte_logits(take_columns(fed.hidden, judged))
