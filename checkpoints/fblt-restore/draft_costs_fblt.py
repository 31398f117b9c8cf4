# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What drafting costs on this device: measured once, with a few calls beside the text, or given."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from .cache_fblt import FBLTCache
from .compiled_networks_fblt import CompiledNetworks
from .fields_fblt import is_number
from .forward_steps_fblt import draft_bytes, feed

CONTEXT, TURNS = 48, 3  # bytes fed before, and measurements of each call, of which the fastest counts
# Where one number is given: one more byte in a call costs this share of the call.
BYTE_SHARE = 1 / 32


@dataclass
class DraftCosts:
    """Costs of what drafts are made of, a round without a draft being 1.

    Attributes:
        call: a decoder call over one byte.
        byte: one more byte in a decoder call.
        verified: one more byte in the call of everything, which verifies.
        head: a step of the draft head, which chooses one byte.
    """

    call: float
    byte: float = 0.0
    verified: float = 0.0
    head: float = 0.0

    @classmethod
    def given(cls, cost: "float | Mapping[str, float]") -> "DraftCosts":
        """From `draft_cost`: the attributes by name, or what a decoder call costs alone.

        Raises:
            ValueError: names that are no attributes, or values that are no numbers of at least 0.
        """
        costs = dict(cost) if isinstance(cost, Mapping) else {"call": cost}
        names = set(cls.__dataclass_fields__)
        numbers = all(is_number(value) and value >= 0 for value in costs.values())
        if "call" not in costs or set(costs) - names or not numbers:
            raise ValueError(
                f"`draft_cost` is {cost!r}: give `call`, and if you like {sorted(names - {'call'})}, 0 or more, a "
                "round without a draft being 1; or one number, which is `call`."
            )
        if not isinstance(cost, Mapping):
            costs |= {"byte": cost * BYTE_SHARE, "verified": cost * BYTE_SHARE}
        return cls(**costs)


def measured_costs(lm, rows: int, length: int, networks: CompiledNetworks | None = None) -> DraftCosts:
    """What drafts of `length` bytes cost `lm` with so many rows, and with `networks` compiled. Measured at
    the first call and kept with the model.

    The calls run on a cache of their own, over bytes of their own, and draw no random numbers: they can change which
    drafts are tried, never what a given draft becomes.
    """
    kept = lm.__dict__.setdefault("_measured_draft_costs", {})
    weight = lm.lm_head.weight
    key = (rows, length, str(weight.device), weight.dtype, networks and networks.chosen)
    if key not in kept:
        kept[key] = _measure(lm, rows, length, networks)
    return kept[key]


@torch.no_grad()
def _measure(lm, rows: int, length: int, networks: CompiledNetworks | None) -> DraftCosts:
    weight, model = lm.lm_head.weight, lm.model
    device = weight.device
    ids = (torch.arange(CONTEXT + length, device=device) % 26 + 101).expand(rows, -1).contiguous()
    cache = FBLTCache(lm.config, rows, device, networks)
    before = torch.full((rows,), CONTEXT, device=device)
    feed(model, ids[:, :CONTEXT], before, cache, close_patch=True)

    def round_of(n: int) -> None:
        # With the patch closed, the global transformer runs, as it does in nearly every round.
        fed = feed(model, ids[:, CONTEXT : CONTEXT + n], torch.full_like(before, n), cache, close_patch=True)
        lm.byte_logits(fed.hidden).argmax(-1)
        cache.truncate(before)

    def draft_of(n: int) -> None:
        lm.byte_logits(draft_bytes(model, ids[:, CONTEXT : CONTEXT + n], 0, cache)).argmax(-1)

    def head_over(n: int) -> None:
        logits = weight.new_zeros(rows, n, weight.shape[0])
        hidden, masked = weight.new_zeros(rows, n, weight.shape[1]), torch.ones_like(ids[:, :n], dtype=torch.bool)

        def choose(scores: torch.Tensor, *_) -> tuple[torch.Tensor, torch.Tensor]:
            return scores, scores.argmax(-1)

        step = networks and networks.head_step
        lm.draft_head.fill(ids[:, 0], hidden, logits, ids[:, :n], masked, choose, step)

    one, all_ = (_fastest(lambda n=n: round_of(n), device) for n in (1, length))
    call, calls = (_fastest(lambda n=n: draft_of(n), device) for n in (1, length))
    more, head = max(length - 1, 1), 0.0
    if lm.draft_head is not None:
        head = _fastest(lambda: head_over(length), device) / length
    return DraftCosts(
        call=call / one,
        byte=max(calls - call, 0.0) / more / one,
        verified=max(all_ - one, 0.0) / more / one,
        head=head / one,
    )


def _fastest(call: Callable[[], None], device: torch.device) -> float:
    """Seconds of the fastest of some calls, the first left out, which sets things up."""
    seconds = []
    for _ in range(1 + TURNS):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
