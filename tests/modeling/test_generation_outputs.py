# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What `generate` returns beside bytes: scores and logits of each new byte, and what plain decoding alone can give."""

import pytest
import torch

from modeling_fblt.generation_fblt import FBLTGenerateOutput
from tests.modeling.naive_decoding import ALL, FEW, NEVER, VERIFIED, generated, left_padded, prompts, shared_model
from tests.modeling.tiny import random_rows, tiny_model
from tests.thorough import few

pytestmark = pytest.mark.contract

NEW = 9


def output_of(name: str, inputs: dict, new: int = NEW, **more):
    arguments = {"eos_token_id": NEVER, "return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    return shared_model().generate(**inputs, max_new_tokens=new, **{**arguments, **more}, **ALL[name])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("new", [1, 3, NEW])
def test_one_score_and_one_logit_row_per_new_byte(name, new):
    output = output_of(name, left_padded(prompts()), new)
    for recorded in (output.scores, output.logits):
        assert len(recorded) == new and all(part.shape == (4, 261) for part in recorded)
        # All but `<mask>`: the lowest float64 is beyond float32.
        assert all(bool(part[:, :-1].isfinite().all()) for part in recorded)
    assert torch.equal(torch.stack(output.scores, 1).argmax(-1), output.sequences[:, -new:])


@pytest.mark.parametrize("name", ["ar", *VERIFIED])
def test_scores_are_those_of_full_passes(name):
    inputs = left_padded(prompts())
    output = output_of(name, inputs, repetition_penalty=1.3)
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, NEW), value=1)
    whole = shared_model()(output.sequences, attention_mask=mask, use_cache=False).logits[:, -NEW - 1 : -1]
    torch.testing.assert_close(torch.stack(output.logits, 1), whole.float(), atol=1e-5, rtol=0)
    plain = output_of("ar", inputs, repetition_penalty=1.3)
    torch.testing.assert_close(torch.stack(output.scores), torch.stack(plain.scores), atol=1e-5, rtol=0)
    assert not torch.equal(output.scores[0], output.logits[0])


@pytest.mark.parametrize("name", ["ar", "blt-s", "blt-dv one step"])
def test_scores_after_a_stop_are_zero(name):
    (row,) = generated(shared_model(), {"input_ids": prompts()[2][None]}, NEW, decoding="ar")
    output = output_of(name, left_padded([prompts()[0], prompts()[2]]), eos_token_id=row[3])
    kept = row.index(row[3]) + 1
    assert all(bool((part[1] == 0).all()) for part in output.scores[kept:])
    assert all(bool((part[1] != 0).any()) for part in output.scores[:kept])


@pytest.mark.parametrize("name", ["ar", "blt-s", "blt-dv one step"])
@pytest.mark.parametrize("flags", [{"use_cache": False}, {"output_attentions": True}, {"output_hidden_states": True}])
def test_what_only_plain_decoding_can_give_is_decoded_plainly(name, flags):
    model, inputs = shared_model(), {"input_ids": random_rows(2, 7, seed=3)}
    model.set_attn_implementation("eager")
    output = output_of(name, inputs, **flags)
    assert torch.equal(output.sequences, output_of("ar", inputs).sequences)
    if "use_cache" in flags:
        assert output.past_key_values is None
    if "output_attentions" in flags:
        assert len(output.attentions) == NEW
        assert [layer.shape for layer in output.attentions[0]] == [(2, 2, 7, 7)] * 2
    if "output_hidden_states" in flags:
        assert [len(step) for step in output.hidden_states] == [3] * NEW


def test_counters_are_one_number_per_row():
    output = output_of("blt-dv one step", left_padded(prompts()))
    assert isinstance(output, FBLTGenerateOutput)
    for name in ("decoder_nfe", "encoder_nfe", "global_nfe", "patcher_nfe", "drafted", "accepted", "iterations"):
        value = getattr(output, name)
        assert value.dtype == torch.long and value.shape == (4,)


def test_a_patcher_that_is_not_there_is_not_called():
    output = tiny_model(patching_mode="space").generate(
        prompts()[0][None], max_new_tokens=4, return_dict_in_generate=True
    )
    assert output.patcher_nfe.tolist() == [0] and output.encoder_nfe.tolist() == output.iterations.tolist()


@pytest.mark.parametrize("name", ALL)
def test_the_acceptance_histogram_counts_every_draft_once(name):
    output = output_of(name, left_padded(prompts()), 24)
    kept = torch.arange(output.acceptance.shape[1])
    assert torch.equal((output.acceptance * kept).sum(1), output.accepted)
    assert (output.acceptance.sum(1) <= output.iterations).all()
    assert bool(output.acceptance.any()) == (name != "ar")


@pytest.mark.parametrize("name", few(ALL, FEW))
def test_a_finished_row_costs_no_calls(name):
    rows = generated(shared_model(), left_padded(prompts()), 24, **ALL[name])
    stop = rows[0][2]
    together = output_of(name, left_padded(prompts()), 24, eos_token_id=stop)
    alone = output_of(name, {"input_ids": prompts()[0][None]}, 24, eos_token_id=stop)
    for counter in ("decoder_nfe", "encoder_nfe", "global_nfe", "patcher_nfe", "iterations", "drafted"):
        assert int(getattr(together, counter)[0]) == int(getattr(alone, counter)[0]), counter


@pytest.mark.parametrize("name", ALL)
def test_rows_may_be_asked_for_several_times(name):
    inputs = left_padded(prompts()[:2])
    sequences = shared_model().generate(
        **inputs, max_new_tokens=6, num_return_sequences=3, do_sample=True, top_k=1, eos_token_id=NEVER, **ALL[name]
    )
    assert sequences.shape[0] == 6
    assert all(torch.equal(sequences[3 * i], sequences[3 * i + j]) for i in range(2) for j in range(3))


@pytest.mark.parametrize("name", ALL)
def test_inference_mode_and_bfloat16(name):
    model = shared_model()
    with torch.inference_mode():
        output = output_of(name, left_padded(prompts()))
    assert torch.equal(output.sequences, output_of(name, left_padded(prompts())).sequences)
    # What was made in inference mode can be gone on from outside of it.
    mask = torch.nn.functional.pad(left_padded(prompts())["attention_mask"], (0, NEW), value=1)
    more = model.generate(
        output.sequences.clone(),
        attention_mask=mask,
        past_key_values=output.past_key_values,
        max_new_tokens=3,
        **ALL[name],
    )
    assert more.shape[1] == output.sequences.shape[1] + 3
