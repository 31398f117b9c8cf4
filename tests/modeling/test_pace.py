# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The pace: what is drafted, and how, follows acceptance and costs, by earlier rounds alone."""

import pytest
import torch

from modeling_fblt import draft_costs_fblt, drafters_fblt
from modeling_fblt.draft_costs_fblt import DraftCosts, measured_costs
from modeling_fblt.pace_fblt import EVERY, TRIALS, Pace, Way, best_lengths, ways_of
from tests.modeling.naive_decoding import NEVER, left_padded, prompts, shared_model
from tests.modeling.tiny import tiny_model

READY = torch.ones(2, dtype=torch.bool)
OWN = ~READY  # no row is looked up
COSTS = DraftCosts(call=0.2, byte=0.01, verified=0.02)


def test_ways_cost_what_their_calls_cost():
    (sequential, passes), lookup = ways_of(COSTS, (0, 2), range(1, 9), 0, range(1, 5))
    assert (sequential.fixed, sequential.byte) == (0, pytest.approx(0.22))  # a call for every byte
    assert (passes.fixed, passes.byte) == (pytest.approx(0.4), pytest.approx(0.04))
    assert (lookup.fixed, lookup.byte, lookup.lengths) == (0, 0.02, range(1, 5))
    (block,), lookup = ways_of(COSTS, (1,), range(8, 9), 8, range(0))
    (with_head,), _ = ways_of(DraftCosts(0.2, 0.01, 0.02, head=0.03), (1,), range(8, 9), 8, range(0), head=True)
    assert with_head.fixed == pytest.approx(block.fixed + 8 * 0.03) and with_head.byte == block.byte
    assert (block.fixed, block.byte) == (pytest.approx(0.47), pytest.approx(0.03)) and lookup is None
    assert ways_of(COSTS, (0,), range(0), 0, range(0)) == ([], None)


def test_what_a_length_earns():
    lengths, earned = best_lengths(torch.tensor([0.5, 0.0], dtype=torch.float64), Way(0, 0.5, 0.25, range(3, 4)))
    assert lengths.tolist() == [3, 3]
    assert earned.tolist() == pytest.approx([(1 + 0.5 + 0.25 + 0.125) / 2.25, 1 / 2.25])


def run(pace: Pace, rounds: int, rate: dict[int, float], copied: torch.Tensor = OWN) -> list:
    """Plans of some rounds in which each number of passes has `rate` of its drafts accepted."""
    plans = []
    for _ in range(rounds):
        plan = pace.plan(READY)
        plans.append(plan)
        drafted = plan.lengths if plan.looked_up is None else torch.where(copied, plan.looked_up, plan.lengths)
        pace.observe(drafted, (drafted * rate[plan.passes]).long(), copied)
    return plans


@pytest.mark.parametrize(
    ("rate", "call", "best"),
    [
        ({0: 0.2, 1: 0.4, 2: 0.9, 3: 0.95}, 0.05, 2),  # a third pass gains less than it costs
        ({0: 0.2, 1: 0.9, 2: 0.9, 3: 0.9}, 0.05, 1),
        ({0: 0.6, 1: 0.7, 2: 0.9, 3: 0.9}, 1.0, 0),  # calls as dear as rounds
        ({0: 0.1, 1: 0.2, 2: 0.3, 3: 1.0}, 0.05, 3),
    ],
)
def test_the_number_of_passes_is_what_pays(rate, call, best):
    ways = ways_of(DraftCosts(call), (0, 1, 2, 3), range(8, 9), 8, range(0))
    plans = run(Pace(lambda rows: ways), 60, rate)
    first = [plan.passes for plan in plans[: 4 * TRIALS]]
    assert first == [0, 1, 2, 3] * TRIALS
    # Others have their turn now and then.
    later = [plan.passes for plan in plans[4 * TRIALS + 12 :] if plan.passes != best]
    assert len(later) <= 60 // EVERY


def test_passes_that_begin_to_pay_are_found():
    ways = ways_of(DraftCosts(0.05), (0, 1), range(8, 9), 8, range(0))
    pace = Pace(lambda rows: ways)
    run(pace, 40, {0: 0.9, 1: 0.9})
    assert pace.plan(READY).passes == 0
    pace.observe(torch.tensor([8, 8]), torch.tensor([7, 7]), OWN)
    plans = run(pace, 10 * EVERY, {0: 0.1, 1: 1.0})
    assert sum(plan.passes for plan in plans[-EVERY:]) >= EVERY - 1


def test_rows_have_lengths_of_their_own():
    pace = Pace(lambda rows: ways_of(COSTS, (0,), range(1, 17), 0, range(0)))
    for _ in range(30):
        pace.plan(READY)
        pace.observe(torch.tensor([8, 8]), torch.tensor([8, 0]), OWN)
    lengths = pace.plan(READY).lengths.tolist()
    assert lengths[0] == 16 and lengths[1] == 1
    # A row that drafts nothing says nothing.
    pace.observe(torch.tensor([0, 0]), torch.tensor([0, 0]), OWN)
    assert pace.plan(READY).lengths.tolist() == lengths


def test_lookup_is_dropped_where_it_fails_and_tried_again():
    pace = Pace(lambda rows: ways_of(COSTS, (0,), range(1, 9), 0, range(1, 21)))
    copied = torch.tensor([True, True])
    for _ in range(2 * EVERY):
        plan = pace.plan(READY)
        pace.observe(plan.looked_up.clamp(min=1), torch.stack([plan.looked_up[0], torch.tensor(0)]), copied)
    worth = [(pace.plan(READY).looked_up > 0).tolist() for _ in range(EVERY)]
    assert all(first for first, _ in worth) and sum(second for _, second in worth) == 1


def test_costs_are_measured_once_and_leave_no_trace(monkeypatch):
    model = tiny_model(seed=5).requires_grad_(False)
    settings_ = {"decoding": "blt-dv", "refine_steps": "auto", "max_new_tokens": 12, "eos_token_id": NEVER}
    measured = []
    measure = draft_costs_fblt._measure
    monkeypatch.setattr(draft_costs_fblt, "_measure", lambda *a: measured.append(a) or measure(*a))
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    costs = measured_costs(model, 4, 5)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert costs.call > 0 and costs.byte >= 0 and costs.verified >= 0
    output = model.generate(**left_padded(prompts()), return_dict_in_generate=True, **settings_)
    again = model.generate(**left_padded(prompts()), **settings_)
    assert len(measured) == 1 and torch.equal(output.sequences, again)
    assert int(output.patcher_nfe.max()) == int(output.iterations.max())
    given = model.generate(**left_padded(prompts()), draft_cost=0.2, **settings_)
    assert len(measured) == 1 and torch.equal(given, again)
    assert not any("cost" in name and value for name, value in model.generation_config.to_diff_dict().items())


@pytest.mark.parametrize("decoding", ["blt-s", "blt-dv"])
def test_with_given_costs_everything_is_chosen_alike_every_time(monkeypatch, decoding):
    plans = []

    class Watched(Pace):
        def plan(self, ready):
            plan = super().plan(ready)
            plans[-1].append((plan.passes, plan.lengths.tolist(), plan.looked_up.tolist()))
            return plan

    monkeypatch.setattr(drafters_fblt, "Pace", Watched)
    settings_ = {"decoding": decoding, "refine_steps": "auto", "draft_length": "auto", "block_size": "auto"}
    costs = {"call": 0.05, "byte": 0.002, "verified": 0.01}
    for _ in range(2):
        plans.append([])
        shared_model().generate(
            **left_padded(prompts()),
            max_new_tokens=30,
            eos_token_id=NEVER,
            prompt_lookup_num_tokens=8,
            draft_cost=costs,
            **settings_,
        )
    assert plans[0] == plans[1] and len({passes for passes, _, _ in plans[0]}) == 4


def test_what_is_drafted_hangs_on_earlier_rounds_alone():
    """The same evidence gives the same plan, whatever is drafted now: sampling stays exact."""
    ways = ways_of(COSTS, (0, 1, 2, 3), range(1, 9), 8, range(1, 9))
    first, second = Pace(lambda rows: ways), Pace(lambda rows: ways)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        one, other = first.plan(READY), second.plan(READY)
        assert one.passes == other.passes and torch.equal(one.lengths, other.lengths)
        assert torch.equal(one.looked_up, other.looked_up)
        accepted = (torch.rand(2, generator=generator) * (one.lengths + 1)).long()
        for pace in (first, second):
            pace.observe(one.lengths, accepted, OWN)
