# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What `generate` offers beside bytes: counters, streams, caches to go on from, sampling, and clear refusals."""

from typing import Any

import pytest
import torch

from modeling_fblt.cache_fblt import FBLTCache
from modeling_fblt.generation_fblt import FBLTGenerateOutput
from tests.modeling.naive_decoding import (
    ALL,
    DRAFTED,
    FEW,
    NEVER,
    VERIFIED,
    assert_cache_equals_a_fresh_one,
    generated,
    left_padded,
    prompts,
    shared_model,
)
from tests.modeling.tiny import BLOCK, random_rows, tiny_model
from tests.thorough import few

pytestmark = pytest.mark.contract


def full_output(inputs: dict, new: int, **settings: Any) -> FBLTGenerateOutput:
    arguments = {"eos_token_id": NEVER, "do_sample": False, **settings}
    output = shared_model().generate(**inputs, max_new_tokens=new, return_dict_in_generate=True, **arguments)
    assert isinstance(output, FBLTGenerateOutput)
    return output


# --- blt-d ---


@pytest.mark.parametrize("name", DRAFTED)
@pytest.mark.parametrize("new", [1, BLOCK - 1, 14])
def test_blt_d_writes_the_same_rows_alone_and_together(name, new):
    together = generated(shared_model(), left_padded(prompts()), new, **DRAFTED[name])
    assert [len(row) for row in together] == [new] * 4 and all(NEVER not in row for row in together)
    # A row of `<s>` alone needs a plain round first, in which rows of its batch take part.
    longer = [prompt for prompt in prompts() if len(prompt) > 1]
    together = generated(shared_model(), left_padded(longer), new, **DRAFTED[name])
    for prompt, row in zip(longer, together, strict=True):
        assert generated(shared_model(), {"input_ids": prompt[None]}, new, **DRAFTED[name]) == [row]


def test_blt_d_ends_at_a_stop():
    inputs = {"input_ids": prompts()[0][None]}
    (row,) = generated(shared_model(), inputs, 20, **DRAFTED["blt-d one step"])
    stop = row[9]
    assert generated(shared_model(), inputs, 20, stop, **DRAFTED["blt-d one step"]) == [row[: row.index(stop) + 1]]


def test_unmasking_settings_trade_calls_for_care():
    inputs, calls = {"input_ids": prompts()[0][None]}, {}
    for name, changes in {
        "one step": {"unmasking": "one_step"},
        "sure": {"unmasking": "confidence", "confidence_threshold": 1.0},
        "any": {"unmasking": "confidence", "confidence_threshold": 0.0},
        "no entropy": {"unmasking": "entropy", "entropy_bound": 0.0},
        "all entropy": {"unmasking": "entropy", "entropy_bound": 1e9},
    }.items():
        calls[name] = int(full_output(inputs, 4 * (BLOCK - 1), decoding="blt-d", **changes).decoder_nfe)
    # The block's first byte is the carried one, so BLOCK - 1 steps fill it in one by one.
    assert calls == {
        "one step": 4, "any": 4, "all entropy": 4, "sure": 4 * (BLOCK - 1), "no entropy": 4 * (BLOCK - 1)
    }  # fmt: skip


def test_closing_the_patch_changes_drafts_only():
    inputs = left_padded(prompts())
    closed, plain = (full_output(inputs, 20, **DRAFTED[name]) for name in ("blt-d closed", "blt-d one step"))
    assert not torch.equal(closed.sequences, plain.sequences)
    rows = [torch.cat([p, row[-20:]]) for p, row in zip(prompts(), closed.sequences, strict=True)]
    assert_cache_equals_a_fresh_one(shared_model(), closed.past_key_values, rows)


# --- caches ---


@pytest.mark.parametrize("name", ALL)
def test_the_cache_holds_all_but_the_last_byte_of_each_row(name):
    output = full_output(left_padded(prompts()), 17, **ALL[name])
    rows = [torch.cat([p, row[-17:]]) for p, row in zip(prompts(), output.sequences, strict=True)]
    assert_cache_equals_a_fresh_one(shared_model(), output.past_key_values, rows)


@pytest.mark.parametrize("name", few(["ar", *VERIFIED], FEW))
def test_going_on_from_the_cache_gives_the_uninterrupted_bytes(name):
    inputs = left_padded(prompts())
    whole = full_output(inputs, 24, **ALL[name]).sequences
    first = full_output(inputs, 11, **ALL[name])
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 11), value=1)
    before = first.past_key_values.lengths.clone()
    going_on = {"input_ids": first.sequences, "attention_mask": mask, "past_key_values": first.past_key_values}
    second = full_output(going_on, 13, **ALL[name])
    assert torch.equal(second.sequences, whole)
    assert (second.past_key_values.lengths == before + 13).all()
    # The bytes that the cache holds are not fed again.
    assert int(second.patcher_nfe.max()) <= int(second.iterations.max())


@pytest.mark.parametrize("name", ["ar", *VERIFIED])
def test_a_cache_of_the_callers_own_is_filled_in_place(name):
    cache, prompt = FBLTCache(shared_model().config, 1), prompts()[0][None]
    first = shared_model().generate(
        prompt, past_key_values=cache, max_new_tokens=8, eos_token_id=NEVER, use_cache=True, **ALL[name]
    )
    more = torch.cat([first, random_rows(1, 6, seed=21)[:, 1:]], dim=1)
    arguments = {"max_new_tokens": 9, "eos_token_id": NEVER, **ALL[name]}
    continued = shared_model().generate(more, past_key_values=cache, **arguments)
    assert torch.equal(continued, shared_model().generate(more, **arguments))
    assert cache.get_seq_length() == continued.shape[1] - 1


# --- counters ---


@pytest.mark.parametrize("name", ["ar", *VERIFIED])
def test_an_iteration_of_a_verified_decoding_costs_one_call_of_the_global_model_at_most(name):
    output = full_output(left_padded(prompts()), 24, **ALL[name])
    assert (output.global_nfe <= output.iterations).all() and (output.global_nfe > 0).all()
    assert torch.equal(output.patcher_nfe, output.iterations)
    assert torch.equal(output.encoder_nfe, output.iterations)
    assert (output.accepted <= output.drafted).all()
    # One byte per iteration, and what was accepted.
    assert torch.equal(output.iterations + output.accepted, torch.full((4,), 24)) or name != "ar"
    assert (output.iterations + output.accepted >= 24).all()


def test_decoder_calls_add_up():
    inputs = {"input_ids": prompts()[0][None]}
    for name in ("ar", "blt-s", "blt-dv one step"):
        output = full_output(inputs, 24, **ALL[name])
        # A drafted byte is a call of its own in blt-s, a block is one call. The first round has no draft: the prompt is
        # not fed yet; nor has the last, if just one byte is left to write.
        rounds = int(output.iterations)
        drafts = {"ar": 0, "blt-s": int(output.drafted)}.get(name, rounds - 1)
        assert int(output.decoder_nfe) - rounds in ({drafts, drafts - 1} if name == "blt-dv one step" else {drafts})
    output = full_output(inputs, 24, **ALL["blt-d one step"])
    assert int(output.decoder_nfe) == int(output.iterations) == 24 // (BLOCK - 1)
    assert int(output.global_nfe) <= int(output.iterations)


def test_drafting_through_the_encoder_is_counted():
    model = shared_model("encoder")
    output = model.generate(
        prompts()[0][None], max_new_tokens=12, return_dict_in_generate=True, eos_token_id=NEVER, **ALL["blt-s"]
    )
    assert int(output.encoder_nfe) == int(output.decoder_nfe) > int(output.iterations)


# --- streams ---


class Recorder:
    def __init__(self):
        self.chunks: list[list[int]] = []
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        assert not self.ended
        self.chunks.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended = True


class DraftRecorder(Recorder):
    def __init__(self):
        super().__init__()
        self.drafts: list[tuple[int, list[int]]] = []

    def put_draft(self, value: torch.Tensor) -> None:
        self.drafts.append((len(self.chunks), value.flatten().tolist()))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("kind", [Recorder, DraftRecorder])
def test_a_streamer_gets_the_prompt_and_then_exactly_the_new_bytes(name, kind):
    prompt, streamer = prompts()[2], kind()
    sequences = shared_model().generate(
        prompt[None], streamer=streamer, max_new_tokens=19, eos_token_id=NEVER, **ALL[name]
    )
    assert streamer.ended and streamer.chunks[0] == prompt.tolist()
    assert [byte for chunk in streamer.chunks for byte in chunk] == sequences[0].tolist()
    assert all(streamer.chunks) and (name != "ar" or len(streamer.chunks) == 20)
    if kind is DraftRecorder:
        assert bool(streamer.drafts) == (name != "ar")
        # Each draft comes before the bytes that are kept of it.
        for place, draft in streamer.drafts:
            kept = streamer.chunks[place]
            assert kept[: len(kept) - 1] == draft[: len(kept) - 1]


# --- sampling and beams ---


def test_ar_samples_from_the_models_distribution():
    model = tiny_model(seed=3, dtype=torch.float32).requires_grad_(False)
    model.lm_head.weight.mul_(3)
    prompt, draws = random_rows(1, 7, seed=1), 500
    torch.manual_seed(0)
    settings = {"do_sample": True, "temperature": 0.8, "top_k": 4, "top_p": 1.0, "decoding": "ar"}
    drawn = model.generate(prompt, max_new_tokens=2, num_return_sequences=draws, eos_token_id=NEVER, **settings)
    best = (model(prompt).logits[0, -1] / 0.8).topk(4)
    expected = torch.softmax(best.values, -1)
    counts = (drawn[:, 7:8] == best.indices).sum(0)
    assert int(counts.sum()) == draws
    # Four standard deviations.
    assert ((counts / draws - expected).abs() < 4 * (expected * (1 - expected) / draws).sqrt()).all()
    assert len(set(drawn[:, 8].tolist())) > 4


@pytest.mark.parametrize("settings", [{"temperature": 1.3}, {"top_p": 0.4}, {"temperature": 0.7, "top_k": 5}])
@pytest.mark.parametrize("name", ["ar", "blt-d confidence", "blt-d one step"])
def test_sampling_repeats_under_a_seed(name, settings):
    def sample(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        arguments = {"max_new_tokens": 12, "do_sample": True, "eos_token_id": NEVER, "top_k": 0, **settings}
        return shared_model().generate(**left_padded(prompts()), **arguments, **ALL[name])

    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))


def test_almost_no_temperature_is_greedy():
    cold = {"do_sample": True, "temperature": 1e-6, "top_k": 0, "max_new_tokens": 12, "eos_token_id": NEVER}
    for name in ("ar", "blt-d one step"):
        rows = shared_model().generate(**left_padded(prompts()), **cold, **ALL[name])
        assert rows[:, -12:].tolist() == generated(shared_model(), left_padded(prompts()), 12, **ALL[name])


def test_beams_keep_their_caches_apart():
    model, inputs = shared_model(), left_padded(prompts())
    for prompt, row in zip(prompts(), model.generate(**inputs, num_beams=3, max_new_tokens=9), strict=True):
        alone = model.generate(prompt[None], num_beams=3, max_new_tokens=9, use_cache=False)
        assert torch.equal(row[-9:], alone[0, -9:])


# --- refusals ---


@pytest.mark.parametrize(
    ("argument", "settings"),
    [
        ("decoding", {"decoding": "beam"}),
        ("unmasking", {"decoding": "blt-dv", "unmasking": "random"}),
        ("block_size", {"decoding": "blt-dv", "block_size": BLOCK + 1}),
        ("block_size", {"decoding": "blt-d", "block_size": 1}),
        ("draft_length", {"decoding": "blt-s", "draft_length": 0}),
        ("confidence_threshold", {"decoding": "blt-d", "confidence_threshold": 1.5}),
        ("entropy_bound", {"decoding": "blt-d", "entropy_bound": -1.0}),
        ("close_patch", {"decoding": "blt-dv", "close_patch": True}),
        (
            "output_hidden_states",
            {"output_hidden_states": True, "return_dict_in_generate": True, "decoding": "blt-d"},
        ),
        ("use_cache", {"use_cache": False, "decoding": "blt-d"}),
        ("synced_gpus", {"synced_gpus": True, "decoding": "blt-d"}),
        ("block_size", {"decoding": "blt-d", "block_size": "auto"}),
        ("block_size", {"decoding": "blt-dv", "block_size": "long"}),
        ("draft_length", {"decoding": "blt-s", "draft_length": 500}),
        ("draft_cost", {"decoding": "blt-s", "draft_length": "auto", "draft_cost": -1}),
        ("draft_cost", {"draft_cost": {"call": 0.1, "bytes": 0.1}}),
        ("draft_cost", {"draft_cost": "little"}),
        ("draft_confidence", {"decoding": "blt-s", "draft_confidence": 1.5}),
        ("draft_confidence", {"decoding": "blt-d", "draft_confidence": 0.5}),
        ("block_anchor", {"decoding": "blt-dv", "block_anchor": "word"}),
        ("paper_passes", {"decoding": "ar", "paper_passes": True}),
        ("prompt_lookup_num_tokens", {"prompt_lookup_num_tokens": 3, "decoding": "blt-d"}),
        ("prompt_lookup_num_tokens", {"prompt_lookup_num_tokens": 3, "num_beams": 2}),
        ("prompt_lookup_num_tokens", {"prompt_lookup_num_tokens": 0}),
        ("max_matching_ngram_size", {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 0}),
        ("refine_steps", {"refine_steps": -1}),
        ("refine_steps", {"refine_steps": "many"}),
        ("refine_steps", {"decoding": "blt-d", "refine_steps": "auto"}),
        ("refine_steps", {"decoding": "blt-s", "refine_steps": 1, "paper_passes": True}),
        ("assistant_model", {"assistant_model": shared_model("encoder")}),
        ("past_key_values", {"past_key_values": object()}),
        ("past_key_values", {"past_key_values": FBLTCache(shared_model().config, 2)}),
        ("cache_implementation", {"cache_implementation": "static"}),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_by_name(argument, settings):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        shared_model().generate(random_rows(1, 6), max_new_tokens=4, **settings)


def test_blocks_are_refused_by_a_model_that_was_not_trained_for_them():
    model = tiny_model(block_size=None)
    assert model.generation_config.decoding == "blt-s"
    for decoding in ("blt-d", "blt-dv"):
        with pytest.raises(ValueError, match=f"`decoding` is '{decoding}'.*not trained with blocks"):
            model.generate(random_rows(1, 6), decoding=decoding, max_new_tokens=4)


def test_a_row_without_any_byte_is_refused():
    with pytest.raises(ValueError, match="`input_ids`"):
        shared_model().generate(random_rows(2, 4), attention_mask=torch.tensor([[1] * 4, [0] * 4]), max_new_tokens=4)
