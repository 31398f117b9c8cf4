# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Causal refinement: a whole draft goes once through the decoder and is replaced by what the decoder chooses there.

Positions of a draft that were filled at once do not know each other. A pass feeds the carried byte and the draft but
for its last byte, causally, in one decoder call. It reads the last complete latent, as `blt-s` does byte by byte, and
gives at each position the distribution after the draft's bytes before it. So the first byte is `blt-s`'s own after one
pass, the second after two, and so on: after `k` greedy passes the first `k` bytes at least equal `blt-s`'s draft.

**Sampling.** A byte is drawn as the largest `probability / noise`, with exponential noise of its own for each position
(see [`ByteChoice.noise`]). All passes of a round use the same noise. So does the block before them, if it is filled in
from left to right or in one step, and so does verification, which draws from plain decoding's distributions and keeps
the draft as long as both draw the same byte. A pass so leads to what the decoder by itself would draw with this noise,
as a greedy one leads to what it would choose. Drawing with fresh noise in each pass and judging by rejection is
lossless too, but every draw that differs from the one before spoils what follows it.

**Why it stays lossless.** Every byte that is written is verification's own: the one that plain decoding's distribution
`p`, after the true prefix, gives with this position's noise. The noise of a position is new in each round. What decides
whether the round gets as far as that position has not seen it:

- not the true bytes before it;
- not the draft's bytes before it: in the block as in passes they hang on noise of their own and of earlier positions;
- not the draft's length, which hangs on distributions after earlier bytes. (A round stops passing early only where
  further passes change nothing.)

So the byte is distributed as `p`. A block that is filled in any other order would break this, for there a byte hangs on
noise of later positions: passes over it start from its most likely bytes. A byte that differs from the draft's must not
be drawn again with noise of its own: what is kept of the draft is kept because its noise agreed.
"""

import torch

from .counting_fblt import counting
from .forward_steps_fblt import draft_bytes
from .generation_state_fblt import Draft, GenerationState
from .lookup_fblt import LONGEST_MATCH, copy_from, longest_match
from .processors_fblt import dead_ends
from .verification_fblt import confident_length


def first_guess(state: GenerationState, r: int) -> Draft:
    """A draft for passes to start from that costs no call: what followed the last bytes earlier in the row, or the last
    byte repeated.
    """
    text, known = state.fed_text()
    where, _ = longest_match(text, known, LONGEST_MATCH)
    return Draft(copy_from(text, where, known, r), torch.full_like(known, r))


def refine(state: GenerationState, draft: Draft, passes: int, draft_confidence: float | None = None) -> Draft:
    """A draft after `passes` passes, fewer once nothing changes.

    Rows whose last known byte is fed already, as it is in the first round of a row that is `<s>` alone, keep their
    draft. Every logits processor sees, at each position, the draft that the pass was fed as the text before it.

    Args:
        draft: with the noise that it was drawn with; fresh noise is drawn if it has none.
        draft_confidence: the draft ends before the first byte whose likeliest choice has less probability than this in
            the last pass.

    Returns:
        A draft as long, or shorter by `draft_confidence`; when sampling, with the noise that verification needs.
    """
    lm, choose, ids = state.lm, state.choose, draft.ids
    encodes = int(lm.config.decoder_config.input == "encoder")
    able = (state.pending == 0) & (state.cache.lengths > 0)
    judged = counting(ids.shape[1], ids.device) < draft.lengths[:, None]
    changes = (able & (draft.lengths > 0)).long()  # rows that one more pass may change
    noise = draft.noise
    for left in range(passes - 1, -1, -1):
        hidden = draft_bytes(lm.model, torch.cat([state.carried(), ids[:, :-1]], dim=1), 0, state.cache)
        state.count(decoder_nfe=changes, encoder_nfe=encodes * changes)
        logits = lm.byte_logits(hidden)
        scores = choose.after(state, logits, ids)
        noise = choose.noise(scores) if noise is None else noise
        new = torch.where(able[:, None], choose.pick(scores, noise), ids)
        changed = ((new != ids) & judged).any(1)
        ids, changes = new, changes * changed
        if left and not bool((changed & state.active).any()):
            break  # another pass would be fed the same bytes
    lengths = draft.lengths
    if draft_confidence is not None:
        confidence = torch.softmax(scores.float(), dim=-1).amax(-1)
        lengths = torch.minimum(lengths, confident_length(confidence, draft_confidence))
    now = {"scores": scores, "logits": logits}
    record = {name: torch.where(able[:, None, None], now[name], was) for name, was in (draft.record or {}).items()}
    dead = None if draft.dead is None else torch.where(able[:, None], dead_ends(scores), draft.dead)
    return Draft(ids, lengths, None, record, noise, dead)
