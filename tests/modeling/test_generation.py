# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Property 4: under greedy decoding, drafting and verifying returns exactly the bytes of `ar`. In float64."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from modeling_fblt import generation_fblt
from tests.modeling.naive_decoding import (
    FEW,
    NEVER,
    VERIFIED,
    ScriptedDrafter,
    assert_cache_equals_a_fresh_one,
    generated,
    left_padded,
    naive_greedy,
    prompts,
    shared_model,
)
from tests.modeling.tiny import BLOCK, random_rows
from tests.thorough import cases, few

NEW = 24


@pytest.fixture(scope="module", params=["embedding", "encoder"])
def case(request):
    """A model, prompts, and what a loop without caches writes; both decoder inputs."""
    return make_case(request.param)


@pytest.fixture(scope="module", params=few(["embedding", "encoder"], ["embedding"]))
def one_case(request):
    """The same, with both decoder inputs in the long form alone."""
    return make_case(request.param)


@functools.cache
def make_case(decoder_input: str) -> tuple:
    model = shared_model(decoder_input)
    expected = [naive_greedy(model, prompt, NEW) for prompt in prompts()]
    assert all(len(set(row)) > 8 for row in expected), "text that repeats itself tests little"
    return model, left_padded(prompts()), expected


def test_ar_equals_a_loop_without_caches(case):
    model, inputs, expected = case
    assert generated(model, inputs, NEW, decoding="ar") == expected


@pytest.mark.contract
@pytest.mark.parametrize("name", VERIFIED)
def test_verified_decodings_equal_ar(case, name):
    model, inputs, expected = case
    assert generated(model, inputs, NEW, **VERIFIED[name]) == expected
    for i in (1, 2):
        assert generated(model, {"input_ids": prompts()[i][None]}, NEW, **VERIFIED[name]) == [expected[i]]


@pytest.mark.parametrize("name", VERIFIED)
def test_drafts_are_rejected_in_part(one_case, name):
    """Otherwise the tests of this file would be about easy cases only."""
    model, inputs, _ = one_case
    output = model.generate(
        **inputs, **VERIFIED[name], max_new_tokens=NEW, eos_token_id=NEVER, return_dict_in_generate=True
    )
    assert int(output.accepted.sum()) < int(output.drafted.sum())
    if model.config.decoder_config.input == "embedding" or name == "blt-s":
        # With encoder states for clean bytes, blocks of a random model never agree: the scripted drafts below do.
        assert int(output.accepted.sum()) > 0
    assert_cache_equals_a_fresh_one(
        model,
        output.past_key_values,
        [torch.cat([prompt, row[-NEW:]]) for prompt, row in zip(prompts(), output.sequences, strict=True)],
    )


@pytest.mark.parametrize("name", ["ar", *VERIFIED])
@pytest.mark.parametrize("new", [1, 2, BLOCK - 1, 13])
def test_no_more_bytes_are_written_than_asked_for(one_case, name, new):
    model, inputs, expected = one_case
    assert generated(model, inputs, new, **VERIFIED.get(name, {"decoding": "ar"})) == [row[:new] for row in expected]


@pytest.mark.parametrize("name", few(["ar", *VERIFIED], FEW))
def test_nothing_is_written_after_a_stop(one_case, name):
    model, inputs, expected = one_case
    settings_ = VERIFIED.get(name, {"decoding": "ar"})
    stops = {row[place] for row, place in zip(expected, (17, 6, 0), strict=False)}
    for eos in stops:
        wanted = [row[: row.index(eos) + 1] if eos in row else row for row in expected]
        assert generated(model, inputs, NEW, eos=eos, **settings_) == wanted
    several = model.generate(**inputs, **settings_, max_new_tokens=NEW, eos_token_id=sorted(stops))
    written = several[:, inputs["input_ids"].shape[1] :].tolist()
    for row, full in zip(written, expected, strict=True):
        end = next((i + 1 for i, byte in enumerate(full) if byte in stops), NEW)
        assert row == full[:end] + [0] * (len(row) - end)


@functools.cache
def penalised(model) -> list[list[int]]:
    penalty = RepetitionPenaltyLogitsProcessor(penalty=1.4)
    return [naive_greedy(model, prompt, 16, processors=(penalty,)) for prompt in prompts()]


@pytest.mark.parametrize("name", ["ar", *VERIFIED])
def test_logits_processors_see_each_positions_true_prefix(one_case, name):
    model, inputs, _ = one_case
    settings_ = VERIFIED.get(name, {"decoding": "ar"})
    expected = penalised(model)
    # One row with padding and without, all rows together.
    assert generated(model, inputs, 16, repetition_penalty=1.4, **settings_) == expected
    padded = {key: value[2:3] for key, value in inputs.items()}
    assert generated(model, padded, 16, repetition_penalty=1.4, **settings_) == expected[2:3]


def likely(eos: int) -> list:
    """So likely that every row stops as soon as it may."""
    return [[[eos], 50.0]]


@functools.cache
def stopped_as_soon_as_allowed(model, eos: int, least: int) -> list[list[int]]:
    rows = []
    for prompt in prompts():
        counting = MinNewTokensLengthLogitsProcessor(len(prompt), least, eos)
        bias = SequenceBiasLogitsProcessor(likely(eos))
        rows.append(naive_greedy(model, prompt, NEW, eos, processors=(bias, counting)))
        assert len(rows[-1]) == least + 1 and rows[-1][-1] == eos
    return rows


@pytest.mark.parametrize("name", ["ar", *VERIFIED])
def test_a_least_number_of_new_bytes_counts_for_each_row(one_case, name):
    """Rows advance at their own pace, and a processor that counts columns must not notice."""
    model, inputs, expected = one_case
    eos, least = expected[0][3], 9
    settings_ = {"min_new_tokens": least, "sequence_bias": likely(eos), **VERIFIED.get(name, {"decoding": "ar"})}
    assert generated(model, inputs, NEW, eos, **settings_) == stopped_as_soon_as_allowed(model, eos, least)


@pytest.mark.parametrize("right", [0.0, 0.5, 0.9, 1.0])
def test_any_draft_at_all_gives_the_bytes_of_ar(case, monkeypatch, right):
    model, inputs, expected = case
    truth = torch.tensor(expected)
    monkeypatch.setattr(generation_fblt, "build_drafter", lambda *_: ScriptedDrafter(truth, right))
    assert generated(model, inputs, NEW, decoding="blt-s") == expected
    stop = expected[2][11]
    wanted = [row[: row.index(stop) + 1] if stop in row else row for row in expected]
    assert generated(model, inputs, NEW, eos=stop, decoding="blt-s") == wanted


@settings(max_examples=cases(12, 500), deadline=None, derandomize=True)
@given(
    texts=st.lists(st.lists(st.integers(2, 259), max_size=20), min_size=1, max_size=3),
    new=st.integers(1, 16),
    name=st.sampled_from(list(VERIFIED)),
    draft=st.integers(1, 12),
    block=st.integers(2, BLOCK),
    decoder_input=st.sampled_from(["embedding", "encoder"]),
)
def test_verified_decodings_equal_ar_on_any_prompts(texts, new, name, draft, block, decoder_input):
    model, inputs = shared_model(decoder_input), left_padded([torch.tensor([1, *text]) for text in texts])
    plain = generated(model, inputs, new, decoding="ar")
    own = {"draft_length": draft} if name == "blt-s" else {"block_size": block}
    assert generated(model, inputs, new, **{**VERIFIED[name], **own}) == plain


def test_document_ends_that_are_written_start_documents_afresh(one_case):
    """With `</s>` made likely after some bytes, and not a stop, generated text holds several documents."""
    model, inputs, _ = one_case
    bias = {"sequence_bias": [[[byte, 2], 9.0] for byte in range(4, 60)]}
    plain = generated(model, inputs, NEW, decoding="ar", **bias)
    assert 4 < sum(row.count(2) for row in plain) < 0.5 * NEW * len(plain)
    for settings_ in VERIFIED.values():
        assert generated(model, inputs, NEW, **settings_, **bias) == plain


@pytest.mark.contract
@pytest.mark.parametrize("name", few(["ar", *VERIFIED], FEW))
def test_thirty_two_rows_of_all_lengths_write_what_each_writes_alone(name):
    model, texts = shared_model(), [random_rows(1, 1 + 3 * i % 41, seed=50 + i)[0] for i in range(32)]
    together = generated(model, left_padded(texts), 8, **VERIFIED.get(name, {"decoding": "ar"}))
    for i in range(0, 32, 5):
        assert generated(model, {"input_ids": texts[i][None]}, 8, decoding="ar") == [together[i]]
