# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Waits for the device in a round of decoding: those that the head of `generation_fblt.py` lists, and no others.

On a CPU nothing waits, so what would wait elsewhere is counted: values read by the host, shapes that hang on values,
and constants copied from the host.
"""

import pytest
import torch
from fblt.benchmarks.operators import LOOP, CountLaunches

from modeling_fblt import compaction_fblt
from modeling_fblt.compaction_fblt import should_leave
from modeling_fblt.generation_state_fblt import GenerationState
from modeling_fblt.hash_embedding_fblt import HASH_PRIMES
from modeling_fblt.modeling_fblt import FBLTForCausalLM
from tests.modeling.naive_decoding import ALL, NEVER, left_padded, prompts, shared_model
from tests.modeling.tiny import BLOCK, tiny_config


@pytest.fixture
def rounds(monkeypatch):
    """Waits of each round of the loop, by kind, of the calls of a test."""
    seen, launches = [], CountLaunches()
    has_ended = GenerationState.has_ended

    def at_the_end(self, ended):
        verdict = has_ended(self, ended)
        seen.append(launches.take()[LOOP].waits)
        return verdict

    monkeypatch.setattr(GenerationState, "has_ended", at_the_end)
    monkeypatch.setattr(compaction_fblt, "should_leave", lambda ended, present: False)
    with launches:
        yield seen


def write(**settings) -> None:
    shared_model().generate(
        **left_padded(prompts()[:1] + prompts()[2:]), max_new_tokens=24, eos_token_id=NEVER, **settings
    )


@pytest.mark.parametrize("name", ["ar", "blt-s", "blt-dv one step", "blt-d one step"])
def test_a_round_waits_for_lengths_shapes_and_the_end_alone(name, rounds):
    write(**ALL[name])
    assert len(rounds) > 3
    for found in rounds[1:]:  # the first reads the prompt
        assert set(found) <= {"list", "aten._local_scalar_dense"}
        assert found["list"] == 2  # lengths, and the end
        assert 1 <= found["aten._local_scalar_dense"] <= 3  # patches, the open patch; `blt-d`: what is not fed


def test_rows_that_leave_cost_no_wait(rounds, monkeypatch):
    write(**ALL["blt-s"])
    stayed = [found.total() for found in rounds[1:]]
    rounds.clear()
    monkeypatch.setattr(compaction_fblt, "should_leave", should_leave)
    write(**ALL["blt-s"])
    assert [found.total() for found in rounds[1:]] == stayed


def test_unmasking_in_steps_waits_once_a_step(rounds):
    write(**ALL["blt-d confidence"])
    for found in rounds[1:]:
        assert set(found) <= {"list", "aten._local_scalar_dense"}
        assert found["aten._local_scalar_dense"] <= 3 + BLOCK


@pytest.mark.parametrize("name", ["ar", "blt-s", "blt-dv one step"])
def test_processors_ask_for_the_rows_widths_once_a_round(name, rounds):
    write(do_sample=True, top_p=0.9, **ALL[name])
    for found in rounds[1:]:
        assert found["aten._unique2"] <= 1 and found["boolean index"] <= 1 and found["list"] <= 4


@pytest.mark.parametrize(
    "settings", [{"decoding": "blt-s", "draft_length": "auto"}, {"decoding": "blt-dv", "block_size": "auto"}]
)
def test_drafts_that_adapt_wait_once_for_acceptance(settings, rounds):
    write(**settings, draft_cost=0.3)  # given: measuring costs waits too, once a model
    for found in rounds[1:]:
        assert set(found) <= {"list", "aten._local_scalar_dense"} and found["list"] <= 4


def test_the_constants_of_the_hash_are_there_however_a_model_is_made(tmp_path):
    model = FBLTForCausalLM(tiny_config())
    assert not any("powers" in name or "first_rows" in name for name in model.state_dict())
    model.save_pretrained(tmp_path)
    with torch.device("meta"):
        empty = FBLTForCausalLM(tiny_config())
    assert empty.model.encoder.hash_embedding.powers.is_meta
    for made in (model, FBLTForCausalLM.from_pretrained(tmp_path), model.to(torch.float64), model.to(torch.bfloat16)):
        hashing = made.model.encoder.hash_embedding
        # An n-gram's second byte is multiplied by the prime.
        assert {*HASH_PRIMES[:2]} <= {*hashing.powers.flatten().tolist()}
        assert hashing.first_rows.diff().unique().tolist() == [hashing.rows]
