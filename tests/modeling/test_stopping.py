# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Stop strings, criteria of a user's own and the clock stop every decoding where they stop plain decoding."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import StoppingCriteria, StoppingCriteriaList

from modeling_fblt.configuration_fblt import BYTE_OFFSET
from modeling_fblt.stopping_fblt import LEAD, cut_at_stop
from modeling_fblt.tokenization_fblt import build_tokenizer
from tests.modeling.naive_decoding import (
    ALL,
    FEW,
    NEVER,
    VERIFIED,
    assert_cache_equals_a_fresh_one,
    generated,
    left_padded,
    prompts,
    shared_model,
)
from tests.thorough import cases, few

NEW = 24
EQUAL_TO_AR = ["ar", *VERIFIED]


class EndsWith(StoppingCriteria):
    """Stops rows whose last byte is one of some; notes what it was offered."""

    def __init__(self, stops: set[int]):
        self.stops, self.offered = torch.tensor(sorted(stops)), []

    def __call__(self, input_ids, scores, **kwargs):
        self.offered.append(input_ids.clone())
        return torch.isin(input_ids[:, -1], self.stops)


class AllSeen(StoppingCriteria):
    """As evaluation harnesses have it: remembers which rows are done, and answers for all rows at once."""

    def __init__(self, byte: int, columns: int, rows: int):
        self.byte, self.columns, self.done = byte, columns, [False] * rows

    def __call__(self, input_ids, scores, **kwargs) -> bool:
        for row, ids in enumerate(input_ids[:, self.columns :][:, -2:].tolist()):
            self.done[row] = self.done[row] or self.byte in ids
        return all(self.done)


@functools.cache
def plain() -> list[list[int]]:
    return generated(shared_model(), left_padded(prompts()), NEW, decoding="ar")


def until(row: list[int], stops: set[int]) -> list[int]:
    return next((row[: i + 1] for i, byte in enumerate(row) if byte in stops), row)


def padded(rows: list[list[int]]) -> list[list[int]]:
    width = max(map(len, rows))
    return [row + [0] * (width - len(row)) for row in rows]


@pytest.mark.parametrize("name", few(EQUAL_TO_AR, FEW))
def test_a_criterion_stops_each_row_where_plain_decoding_stops_it(name):
    rows = plain()
    for stops in ({rows[0][7], rows[2][3]}, {rows[1][0]}, {rows[3][20]}):
        mine = EndsWith(stops)
        sequences = shared_model().generate(
            **left_padded(prompts()),
            max_new_tokens=NEW,
            eos_token_id=NEVER,
            stopping_criteria=StoppingCriteriaList([mine]),
            **ALL[name],
        )
        expected = [until(row, stops) for row in rows]
        assert sequences[:, -max(map(len, expected)) :].tolist() == padded(expected)


@pytest.mark.parametrize("name", ALL)
def test_criteria_are_offered_one_byte_more_at_each_call(name):
    mine, inputs = EndsWith({NEVER}), left_padded(prompts())
    sequences = shared_model().generate(
        **inputs, max_new_tokens=NEW, eos_token_id=NEVER, stopping_criteria=StoppingCriteriaList([mine]), **ALL[name]
    )
    columns = inputs["input_ids"].shape[1]
    assert [ids.shape[1] for ids in mine.offered] == list(range(columns + 1, columns + NEW + 1))
    assert all(torch.equal(ids, sequences[:, : ids.shape[1]]) for ids in mine.offered)


@pytest.mark.parametrize("name", few(EQUAL_TO_AR, FEW))
def test_a_criterion_that_answers_for_the_whole_batch(name):
    inputs, rows = left_padded(prompts()), plain()
    byte = next(iter(set(rows[0]) & set(rows[1]) & set(rows[2]) & set(rows[3])), None)
    byte = rows[0][5] if byte is None else byte
    outputs = [
        shared_model().generate(
            **inputs,
            max_new_tokens=NEW,
            eos_token_id=NEVER,
            stopping_criteria=StoppingCriteriaList([AllSeen(byte, inputs["input_ids"].shape[1], 4)]),
            **ALL[decoding],
        )
        for decoding in ("ar", name)
    ]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("name", ALL)
def test_a_stop_string_ends_the_text_wherever_it_ends_in_a_draft(name):
    inputs = {"input_ids": prompts()[0][None]}
    (row,) = generated(shared_model(), inputs, NEW, **ALL[name])
    printable = [i for i in range(2, NEW - 1) if all(0x20 < b - BYTE_OFFSET < 0x7F for b in row[i : i + 1])]
    assert printable, "choose another prompt"
    for place in printable[:4]:
        text = chr(row[place] - BYTE_OFFSET)
        stopped = shared_model().generate(
            **inputs,
            max_new_tokens=NEW,
            eos_token_id=NEVER,
            stop_strings=[text],
            tokenizer=build_tokenizer(),
            **ALL[name],
        )
        assert stopped[0, len(prompts()[0]) :].tolist() == row[: row.index(row[place]) + 1]


@pytest.mark.parametrize("name", few(EQUAL_TO_AR, FEW))
def test_the_cache_goes_back_with_a_stopped_row(name):
    rows = plain()
    stops = {rows[0][7], rows[2][3]}
    output = shared_model().generate(
        **left_padded(prompts()),
        max_new_tokens=NEW,
        eos_token_id=NEVER,
        return_dict_in_generate=True,
        stopping_criteria=StoppingCriteriaList([EndsWith(stops)]),
        **ALL[name],
    )
    whole = [torch.cat([p, torch.tensor(until(row, stops))]) for p, row in zip(prompts(), rows, strict=True)]
    assert_cache_equals_a_fresh_one(shared_model(), output.past_key_values, whole)


@pytest.mark.parametrize("name", ALL)
def test_no_time_left_means_one_round(name):
    output = shared_model().generate(
        **left_padded(prompts()),
        max_new_tokens=NEW,
        eos_token_id=NEVER,
        max_time=0.0,
        return_dict_in_generate=True,
        **ALL[name],
    )
    assert (output.iterations == 1).all() and output.sequences.shape[1] > left_padded(prompts())["input_ids"].shape[1]


def test_a_row_waits_for_rows_that_are_far_behind():
    """Otherwise it could not be taken back to where a criterion stops it."""
    model, inputs = shared_model(), left_padded([prompts()[0], prompts()[2]])
    long = LEAD + 40
    whole = generated(model, inputs, long, decoding="ar")
    mine = EndsWith({NEVER})
    sequences = model.generate(
        **inputs,
        max_new_tokens=long,
        eos_token_id=NEVER,
        stopping_criteria=StoppingCriteriaList([mine]),
        **VERIFIED["blt-s"],
    )
    assert sequences[:, -long:].tolist() == whole


@settings(max_examples=cases(8, 500), deadline=None, derandomize=True)
@given(
    name=st.sampled_from(list(VERIFIED)),
    texts=st.lists(st.lists(st.integers(2, 259), max_size=12), min_size=1, max_size=4),
    stops=st.sets(st.integers(4, 259), max_size=40),
    eos=st.sets(st.integers(2, 259), min_size=1, max_size=6),
    new=st.integers(1, 16),
)
def test_any_stops_at_all_leave_what_plain_decoding_writes(name, texts, stops, eos, new):
    inputs = left_padded([torch.tensor([1, *text]) for text in texts])
    outputs = [
        shared_model().generate(
            **inputs,
            max_new_tokens=new,
            eos_token_id=sorted(eos),
            stopping_criteria=StoppingCriteriaList([EndsWith(stops)]),
            **settings_,
        )
        for settings_ in ({"decoding": "ar"}, VERIFIED[name])
    ]
    assert torch.equal(*outputs)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    new=st.lists(st.integers(4, 8), min_size=1, max_size=6),
    length=st.integers(0, 6),
    room=st.integers(1, 8),
    eos=st.sets(st.integers(4, 8), max_size=2),
)
def test_cutting_at_a_stop_equals_a_loop(new, length, room, eos):
    length = min(length, len(new))
    kept, stopped = [], False
    for byte in new[:length]:
        kept.append(byte)
        stopped = byte in eos or len(kept) == room
        if stopped:
            break
    found, ended = cut_at_stop(
        torch.tensor([new]), torch.tensor([length]), torch.tensor(sorted(eos)), torch.tensor([room])
    )
    assert found.tolist() == [len(kept)] and ended.tolist() == [stopped]
