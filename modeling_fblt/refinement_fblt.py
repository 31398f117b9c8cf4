# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Causal refinement: a whole draft goes once through the decoder and is replaced by what the decoder chooses there.

Positions of a draft that were filled at once do not know each other. A pass feeds the carried byte and the draft but
for its last byte, causally, in one decoder call. It reads the last complete latent, as `blt-s` does byte by byte, and
gives at each position the distribution after the draft's bytes before it. So the first byte is `blt-s`'s own after one
pass, the second after two, and so on: after `k` greedy passes the first `k` bytes at least equal `blt-s`'s draft.

**Why sampling stays lossless.** All passes but the last take the likeliest byte, and the last one draws. Let `y` be the
draft that the last pass is fed. Byte `x_i` is drawn from `q_i = q(. | known bytes, y_<i)`, with randomness that nothing
before has used. Speculative rejection asks that `x_i` is drawn from a distribution that is fixed by the past and by
`x_<i`. Given `y`, each `q_i` is: it was written down before any byte was drawn. So `x_i` is accepted with probability
`min(1, p(x_i) / q_i(x_i))`, and at the first rejection a byte is drawn from `max(p - q_i, 0)`, normalised. Here `p` is
plain decoding's distribution after the true prefix `x_<i`, and the text is distributed as `p` has it. This holds for
every `y`, so it holds however `y` came about. It would break if another pass's distributions judged the bytes, or if
the number of passes or the draft's length hung on the bytes that are drawn last.

The earlier passes take the likeliest byte, so that what is drawn agrees with `y` as often as it can.

Where nothing is verified (`blt-d`), text must hold together by itself. There every pass draws, with the same random
numbers, so the passes lead to what `blt-s` would draw with them.
"""

import torch

from .forward_steps_fblt import draft_bytes
from .generation_state_fblt import Draft, GenerationState
from .lookup_fblt import LONGEST_MATCH, copy_from, longest_match
from .verification_fblt import confident_length


def first_guess(state: GenerationState, r: int) -> Draft:
    """A draft for passes to start from that costs no call: what followed the last bytes earlier in the row, or the last
    byte repeated.
    """
    text, known = state.fed_text()
    where, _ = longest_match(text, known, LONGEST_MATCH)
    return Draft(copy_from(text, where, known, r), torch.full_like(known, r))


def refine(
    state: GenerationState, draft: Draft, passes: int, draft_confidence: float | None = None, verified: bool = True
) -> Draft:
    """A draft after `passes` passes, fewer once nothing changes.

    Rows whose last known byte is fed already, as it is in the first round of a row that is `<s>` alone, keep their
    draft. Every logits processor sees, at each position, the draft that the pass was fed as the text before it.

    Args:
        draft_confidence: the draft ends before the first byte whose likeliest choice has less probability than this in
            the last pass.
        verified: whether the draft is going to be.

    Returns:
        A draft as long, or shorter by `draft_confidence`; to be verified, with the last pass's distributions as its
        proposals.
    """
    lm, choose, ids = state.lm, state.choose, draft.ids
    encodes = int(lm.config.decoder_config.input == "encoder")
    able = (state.pending == 0) & (state.cache.lengths > 0)
    judged = torch.arange(ids.shape[1], device=ids.device) < draft.lengths[:, None]
    draws_last = choose.do_sample and verified
    chooser = choose.greedy() if verified else choose
    noise = None
    changes = (able & (draft.lengths > 0)).long()  # rows that one more pass may change
    for left in range(passes - 1, -1, -1):
        hidden = draft_bytes(lm.model, torch.cat([state.carried(), ids[:, :-1]], dim=1), 0, state.cache)
        state.count(decoder_nfe=changes, encoder_nfe=encodes * changes)
        logits = lm.byte_logits(hidden)
        scores = choose.after(state, logits, ids)
        if left == 0 and draws_last:
            break
        noise = chooser.noise(scores) if noise is None else noise
        new = torch.where(able[:, None], chooser.pick(scores, noise), ids)
        changed = ((new != ids) & judged).any(1)
        if left and not bool((changed & state.active).any()):
            break  # another pass would be fed the same bytes
        ids, changes = new, changes * changed
    proposals, lengths = None, draft.lengths
    if draws_last or draft_confidence is not None:
        proposals = torch.softmax(scores.float(), dim=-1)
        lengths = torch.minimum(lengths, confident_length(proposals.amax(-1), draft_confidence))
    if draws_last:
        ids = torch.where(able[:, None], choose.draw(proposals), ids)
    record = draft.record
    if not verified:
        now = {"scores": scores, "logits": logits}
        record = {name: torch.where(able[:, None, None], now[name], was) for name, was in record.items()}
    return Draft(ids, lengths, proposals if draws_last else None, record)
