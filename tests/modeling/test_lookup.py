# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Lookup: the longest match of a row's last bytes, the latest of equally long ones, and what followed it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_fblt.generation_state_fblt import Draft
from modeling_fblt.lookup_fblt import SHORTEST_MATCH, copy_from, longest_match, with_copies
from tests.modeling.naive_decoding import NEVER, generated, left_padded, shared_model


def naive_match(row: list[int], longest: int) -> tuple[int, int]:
    """By comparing backwards from every position."""
    best = (0, len(row) - 1)
    for position in range(1, len(row)):
        length = 0
        while length < min(longest, position) and row[position - 1 - length] == row[len(row) - 1 - length]:
            length += 1
        best = max(best, (length, position))
    return best[1], best[0]


def naive_copy(row: list[int], where: int, r: int) -> list[int]:
    grown = list(row)
    for i in range(r):
        grown.append(grown[where + i])
    return grown[len(row) :]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.lists(st.integers(4, 6), min_size=1, max_size=14), min_size=1, max_size=4),
    longest=st.integers(1, 6),
    r=st.integers(1, 9),
)
def test_matches_and_copies_equal_loops(rows, longest, r):
    width = max(map(len, rows)) + 2
    # What lies after a row's last byte is of no account, and must not matter.
    text = torch.tensor([row + [4] * (width - len(row)) for row in rows])
    known = torch.tensor([len(row) for row in rows])
    where, matched = longest_match(text, known, longest)
    expected = [naive_match(row, longest) for row in rows]
    assert list(zip(where.tolist(), matched.tolist(), strict=True)) == expected
    copies = copy_from(text, where, known, r)
    assert copies.tolist() == [naive_copy(row, w, r) for row, (w, _) in zip(rows, expected, strict=True)]


def test_copies_take_the_place_of_whole_rows():
    draft = Draft(torch.tensor([[5, 6], [7, 8]]), torch.tensor([2, 1]), torch.full((2, 2, 10), 0.1))
    merged = with_copies(draft, torch.tensor([[1, 2, 3], [4, 4, 4]]), torch.tensor([3, 0]))
    assert merged.ids.tolist() == [[1, 2, 3], [7, 8, 0]] and merged.lengths.tolist() == [3, 1]
    assert merged.proposals[0].argmax(-1).tolist() == [1, 2, 3] and bool((merged.proposals[0].sum(-1) == 1).all())
    assert torch.equal(merged.proposals[1, :2], draft.proposals[1])
    assert with_copies(Draft(draft.ids, draft.lengths), merged.ids, merged.lengths).proposals is None


def repeating() -> dict[str, torch.Tensor]:
    """A row that repeats itself, and one in which nothing repeats."""
    phrase = torch.arange(20, 33)
    return left_padded([torch.cat([torch.tensor([1]), phrase, phrase, phrase[:6]]), torch.arange(101, 120)])


def output_of(inputs: dict, new: int = 12, **settings_):
    return shared_model().generate(
        **inputs, max_new_tokens=new, eos_token_id=NEVER, return_dict_in_generate=True, **settings_
    )


def test_only_rows_with_a_match_draft_by_lookup():
    """With a bias that makes the model copy, `ar` drafts where there is something to copy, and keeps all of it."""
    copying = {"sequence_bias": [[[byte, byte + 1], 50.0] for byte in range(20, 32)] + [[[32, 20], 50.0]]}
    output = output_of(repeating(), decoding="ar", prompt_lookup_num_tokens=5, **copying)
    drafted = output.drafted.tolist()
    # 12 bytes: one without a draft, a draft of 5 and the byte after it, 4 and the byte after them.
    assert drafted[0] == 9 and output.accepted.tolist()[0] == 9 and output.iterations.tolist()[0] == 3
    assert drafted[1] == 0 and output.iterations.tolist()[1] == 12
    assert output.decoder_nfe.tolist() == [3, 12]


def test_a_match_needs_some_bytes():
    """A row of which too few last bytes stood before is looked up only if so short a match is asked for."""
    tail = torch.arange(50, 50 + SHORTEST_MATCH - 1)
    row = torch.cat([torch.tensor([1]), tail, torch.tensor([90, 91, 92]), tail[:-1]])
    keep = {"sequence_bias": [[[int(tail[-2]), int(tail[-1])], 50.0]]}
    inputs = {"input_ids": row[None]}
    default = output_of(inputs, 2, decoding="ar", prompt_lookup_num_tokens=5, **keep)
    short = output_of(inputs, 3, decoding="ar", prompt_lookup_num_tokens=5, max_matching_ngram_size=2, **keep)
    assert int(default.drafted) == 0 and int(short.drafted) > 0


@pytest.mark.parametrize("decoding", ["blt-s", "blt-dv"])
def test_rows_without_a_match_draft_as_they_do_alone(decoding):
    inputs = repeating()
    settings_ = {"decoding": decoding, "prompt_lookup_num_tokens": 7, "refine_steps": 1}
    together = output_of(inputs, **settings_)
    for i in range(2):
        row = inputs["input_ids"][i][inputs["attention_mask"][i].bool()]
        alone = output_of({"input_ids": row[None]}, **settings_)
        for counter in ("drafted", "accepted", "iterations", "encoder_nfe", "global_nfe"):
            assert int(getattr(together, counter)[i]) == int(getattr(alone, counter)), counter
    plain = generated(shared_model(), inputs, 12, decoding="ar")
    assert together.sequences[:, -12:].tolist() == plain
