# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The settings that shape drafts change what is drafted and what it costs, never what a verified decoding writes."""

import functools

import pytest
import torch

from modeling_fblt.pace_fblt import Pace, Way, best_lengths
from modeling_fblt.verification_fblt import confident_length
from tests.modeling.naive_decoding import NEVER, generated, left_padded, prompts, shared_model
from tests.modeling.tiny import BLOCK
from tests.thorough import few

NEW = 24
SHAPES = {
    "two passes": {"paper_passes": True},
    "sure": {"draft_confidence": 0.0095},
    "two passes, sure": {"paper_passes": True, "draft_confidence": 0.0095},
}
BLOCK_SHAPES = {
    "at the patch": {"block_anchor": "patch"},
    "at the patch, in steps": {"block_anchor": "patch", "unmasking": "confidence", "confidence_threshold": 0.012},
    "auto": {"block_size": "auto", "draft_cost": 0.4},
}
VARIANTS = {
    **{f"blt-s {n}": {"decoding": "blt-s", "draft_length": 4, **s} for n, s in SHAPES.items()},
    "blt-s auto": {"decoding": "blt-s", "draft_length": "auto", "draft_cost": 0.3},
    **{f"blt-dv {n}": {"decoding": "blt-dv", **s} for n, s in {**SHAPES, **BLOCK_SHAPES}.items()},
}


@functools.cache
def written(decoder_input: str, name: str) -> list[list[int]]:
    settings = VARIANTS.get(name, {"decoding": "ar"})
    return generated(shared_model(decoder_input), left_padded(prompts()), NEW, **settings)


def output_of(settings: dict, inputs: dict | None = None, **more):
    arguments = {"max_new_tokens": NEW, "eos_token_id": NEVER, "return_dict_in_generate": True, **more}
    return shared_model().generate(**(inputs or left_padded(prompts())), **arguments, **settings)


@pytest.mark.parametrize("decoder_input", few(["embedding", "encoder"], ["embedding"]))
@pytest.mark.parametrize("name", VARIANTS)
def test_every_shape_of_draft_writes_what_ar_writes(name, decoder_input):
    assert written(decoder_input, name) == written(decoder_input, "ar")


@pytest.mark.parametrize("decoding", ["blt-s", "blt-dv"])
def test_the_papers_two_passes_cost_a_second_global_call_per_iteration(decoding):
    one, two = (output_of({"decoding": decoding, "paper_passes": paper}) for paper in (False, True))
    assert torch.equal(one.sequences, two.sequences)
    assert (one.global_nfe <= one.iterations).all()
    # The forced boundary completes a patch in each draft's call: every round that drafts has a call of its own for it.
    assert (two.global_nfe > 1.5 * two.iterations).all()


def test_no_draft_goes_on_after_an_unsure_byte():
    never = output_of({"decoding": "blt-s", "draft_length": 6, "draft_confidence": 1.0})
    assert int(never.drafted.sum()) == 0 and torch.equal(never.iterations, torch.full((4,), NEW))
    some = output_of({"decoding": "blt-s", "draft_length": 6, "draft_confidence": 0.0095})
    every = output_of({"decoding": "blt-s", "draft_length": 6})
    assert 0 < int(some.drafted.sum()) < int(every.drafted.sum())
    assert some.accepted.sum() / some.drafted.sum() >= every.accepted.sum() / every.drafted.sum()


@pytest.mark.parametrize("confidence", [[[0.9, 0.2, 0.9]], [[0.1, 0.9, 0.9]], [[0.5, 0.5, 0.5]]])
def test_a_draft_ends_before_its_first_unsure_byte(confidence):
    expected = next((i for i, c in enumerate(confidence[0]) if c < 0.5), 3)
    assert confident_length(torch.tensor(confidence), 0.5).tolist() == [expected]
    assert confident_length(torch.tensor(confidence), None).tolist() == [3]


def test_a_block_at_the_patch_start_shows_its_known_bytes():
    """Fewer bytes are left to draft where the patch's own bytes stand in the block."""
    byte, patch = (output_of({"decoding": "blt-dv", "block_anchor": anchor}) for anchor in ("byte", "patch"))
    per_round = [int(o.drafted.sum()) / int(o.iterations.sum()) for o in (byte, patch)]
    assert per_round[1] < per_round[0] <= BLOCK - 1


def test_blt_d_can_draft_at_the_patch_start():
    settings = {"decoding": "blt-d", "block_anchor": "patch", "unmasking": "one_step"}
    together = generated(shared_model(), left_padded(prompts()), NEW, **settings)
    for prompt, row in zip(prompts(), together, strict=True):
        assert generated(shared_model(), {"input_ids": prompt[None]}, NEW, **settings) == [row]


def naive_best_length(acceptance: float, byte_cost: float, longest: int) -> int:
    def earned(r: int) -> float:
        return sum(acceptance**j for j in range(r + 1)) / (1 + r * byte_cost)

    return max(range(1, longest + 1), key=lambda r: (earned(r), -r))


@pytest.mark.parametrize("byte_cost", [0.0, 0.05, 0.3, 2.0])
@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.7, 0.95, 1.0])
def test_the_draft_length_earns_most(acceptance, byte_cost):
    rates = torch.tensor([acceptance, 0.5], dtype=torch.float64)
    lengths, _ = best_lengths(rates, Way(0, 0.0, byte_cost, range(1, 17)))
    assert lengths.tolist() == [naive_best_length(rate, byte_cost, 16) for rate in rates.tolist()]


def test_the_pace_follows_acceptance():
    pace, ready = Pace(lambda rows: ([Way(0, 0.0, 0.1, range(1, 17))], None)), torch.ones(2, dtype=torch.bool)
    lengths = []
    for accepted in (7, 0):
        for _ in range(40):
            pace.plan(ready)
            pace.observe(torch.tensor([8, 8]), torch.tensor([accepted, accepted]), ~ready)
        lengths.append(pace.plan(ready).lengths.tolist())
    assert lengths[0][0] > lengths[1][0] == 1
    assert all(first == second for first, second in lengths)
