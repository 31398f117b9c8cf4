"""Batches of prompts: their order, their padding, and the journal of a run that may be killed at any byte."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fblt.batches import Journal, bytes_of, left_padded, run_batches, sorted_batches, stop_ids, write
from tests.modeling.tiny import tiny_model

PROMPTS = [b"abc", b"", b"\xff\x00 </s>", b"abc", b"0123456789", b"z"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(max_size=9)), st.integers(1, 5))
def test_batches_hold_every_prompt_once_and_are_sorted(prompts, rows):
    batches = sorted_batches(prompts, rows)
    order = [index for batch in batches for index in batch]
    assert sorted(order) == list(range(len(prompts)))
    lengths = [len(prompts[index]) for index in order]
    assert lengths == sorted(lengths, reverse=True)
    assert all(len(batch) == rows for batch in batches[:-1]) and all(1 <= len(batch) <= rows for batch in batches)


def test_padding_is_on_the_left_and_bytes_are_bytes():
    ids, mask = left_padded(PROMPTS)
    for row, own, prompt in zip(ids, mask.bool(), PROMPTS, strict=True):
        kept = row[own].tolist()
        assert kept[0] == 1 and 2 not in kept and bytes_of(kept) == prompt
        assert own.tolist() == sorted(own.tolist()) and not row[~own].any()


@pytest.mark.parametrize("decoding", ["ar", "blt-dv"])
def test_a_row_of_a_batch_is_the_row_alone(decoding):
    model = tiny_model(seed=3)
    model.generation_config.eos_token_id = [2, *range(60, 140)]
    options = {"max_new_tokens": 20, "do_sample": False, "decoding": decoding}
    together, _ = write(model, PROMPTS, **options)
    assert together == [write(model, [prompt], **options)[0][0] for prompt in PROMPTS]
    ends = [text[-1] in stop_ids(model) for text in together]
    assert any(ends) and not any(set(text[:-1]) & stop_ids(model) for text in together)
    assert all(len(text) == 20 for text, ended in zip(together, ends, strict=True) if not ended)


def upper(number: int, batch: list[int]) -> list:
    return [{"batch": number, "text": PROMPTS[index].upper().decode("latin-1")} for index in batch]


def test_a_run_cut_at_any_byte_ends_as_a_whole_one(tmp_path):
    output, run = tmp_path / "out", {"--model": "m"}
    whole = run_batches(PROMPTS, 2, upper)
    journal = Journal(output, run)
    assert run_batches(PROMPTS, 2, upper, journal) == whole
    journal.close()
    content = journal.path.read_bytes()
    for end in range(len(content) + 1):
        journal.path.write_bytes(content[:end])
        computed = []

        def compute(number: int, batch: list[int], computed: list = computed) -> list:
            computed.append(number)
            return upper(number, batch)

        again = Journal(output, run)
        done = list(again.finished)
        assert run_batches(PROMPTS, 2, compute, again) == whole
        again.close()
        assert sorted(done + computed) == [0, 1, 2] and len(done) == max(content[:end].count(b"\n") - 1, 0)
        assert journal.path.read_bytes() == content
    again.remove()
    assert not list(tmp_path.iterdir())


def test_what_lies_behind_a_damaged_entry_is_computed_again(tmp_path):
    journal = Journal(tmp_path / "out", {})
    run_batches(PROMPTS, 2, upper, journal)
    journal.close()
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join([*lines[:2], b"\x00" * 20 + b"\n", *lines[3:]]))
    again = Journal(tmp_path / "out", {})
    assert list(again.finished) == [0]
    again.close()


def test_the_journal_of_another_run_is_refused_and_left(tmp_path):
    for decoding in ("blt-s", None):  # one that has nothing yet is no obstacle
        journal = Journal(tmp_path / "out", {"--model": "a", "--decoding": decoding})
        journal.close()
    journal = Journal(tmp_path / "out", {"--model": "a", "--decoding": None})
    journal.add(0, ["A"])
    journal.close()
    content = journal.path.read_bytes()
    with pytest.raises(ValueError, match="another --decoding;"):
        Journal(tmp_path / "out", {"--model": "a", "--decoding": "ar"})
    assert journal.path.read_bytes() == content and json.loads(content.splitlines()[0])["--model"] == "a"


def test_it_computes_without_gradients():
    assert not torch.is_inference_mode_enabled()
    _, output = write(tiny_model(), [b"ab"], max_new_tokens=2, return_dict_in_generate=True, output_logits=True)
    assert output.logits[0].is_inference()
