# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Rows that have ended leave the batch: nothing that `generate` returns shows it, and less is computed."""

import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from modeling_fblt import compaction_fblt, generation_state_fblt
from modeling_fblt.compaction_fblt import SHARE, should_leave
from modeling_fblt.forward_steps_fblt import feed
from modeling_fblt.generation_state_fblt import COUNTERS
from tests.modeling.naive_decoding import (
    ALL,
    NEVER,
    assert_cache_equals_a_fresh_one,
    left_padded,
    prompts,
    shared_model,
)
from tests.modeling.tiny import random_rows, tiny_model
from tests.thorough import cases, few

NEW = 24
ADAPTING = {
    "blt-s auto": {"decoding": "blt-s", "draft_length": "auto", "refine_steps": "auto", "draft_cost": 0.3},
    "blt-dv auto, lookup": {
        "decoding": "blt-dv",
        "block_size": "auto",
        "draft_cost": 0.3,
        "prompt_lookup_num_tokens": 4,
        "max_matching_ngram_size": 2,
    },
}
RULES = {
    "never": lambda ended, present: False,
    "at once": lambda ended, present: 0 < ended < present,
    "share": should_leave,
}


@pytest.fixture
def with_rule(monkeypatch):
    """Generates under a rule; returns the output and the numbers of rows that were fed."""

    def generate(rule: str, model, stops: list[int], **arguments):
        fed = []

        def counted(model, ids, *rest, **more):
            fed.append(len(ids))
            return feed(model, ids, *rest, **more)

        monkeypatch.setattr(compaction_fblt, "should_leave", RULES[rule])
        monkeypatch.setattr(generation_state_fblt, "feed", counted)
        return model.generate(eos_token_id=stops, max_new_tokens=NEW, **arguments), fed

    return generate


def ragged(rows: int, seed: int) -> dict[str, torch.Tensor]:
    lengths = torch.randint(1, 30, (rows,), generator=torch.Generator().manual_seed(seed)).tolist()
    return left_padded([random_rows(1, n, seed=seed + i)[0] for i, n in enumerate(lengths)])


def some_stops(model, **arguments) -> list[int]:
    """Stop ids at which rows end one after the other: bytes of the rows' texts, of each row's a later one."""
    columns = arguments["input_ids"].shape[1]
    texts = model.generate(eos_token_id=NEVER, max_new_tokens=NEW, **arguments)[:, columns:]
    return sorted({int(text[(4 * i + 2) % NEW]) for i, text in enumerate(texts[:4])})


def assert_same(one, other) -> None:
    """Sequences, counters, recorded values, and what the caches hold."""
    assert torch.equal(one.sequences, other.sequences)
    for name in (*COUNTERS, "acceptance"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name
    for name in ("scores", "logits"):
        pairs = zip(getattr(one, name) or (), getattr(other, name) or (), strict=True)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)
    mine, its = one.past_key_values, other.past_key_values
    assert torch.equal(mine.lengths, its.lengths) and mine.columns == its.columns


def test_rows_leave_when_a_share_has_ended():
    for present in range(1, 70):
        verdicts = [should_leave(ended, present) for ended in range(present + 1)]
        assert not verdicts[0] and not verdicts[present]  # nobody, or all: the loop is over then
        assert verdicts[1:present] == sorted(verdicts[1:present])
        assert all(verdict == (SHARE * ended >= present) for ended, verdict in enumerate(verdicts[1:present], 1))
    # However rows end, all departures together copy the batch SHARE times at most.
    present, copied = 64, 0
    while present > 1:
        ended = next((n for n in range(1, present) if should_leave(n, present)), present)
        copied, present = copied + present, present - ended
    assert copied <= SHARE * 64


@pytest.mark.parametrize(
    "name", few([*ALL, *ADAPTING], ("ar", "blt-dv pass, lookup", "blt-d confidence", "blt-s auto"))
)
def test_nothing_that_is_returned_shows_it(name, with_rule):
    model, settings = shared_model(), {**ALL, **ADAPTING}[name]
    flags = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    arguments = {**ragged(9, seed=20), **settings}
    stops = some_stops(model, **arguments)
    arguments |= flags
    whole, fed = with_rule("never", model, stops, **arguments)
    for rule in ("at once", "share"):
        output, fewer = with_rule(rule, model, stops, **arguments)
        assert_same(whole, output)
        assert len(fewer) == len(fed) and sum(fewer) < sum(fed) and 0 < min(fewer) < 9
    for found in (whole, output):
        rows = [row[row != 0] for row in found.sequences]
        assert_cache_equals_a_fresh_one(model, found.past_key_values, rows)


@limits(max_examples=cases(6, 60), deadline=None)
@given(st.integers(2, 7), st.integers(0, 1000), st.sampled_from(list(ALL)), st.sampled_from(["embedding", "encoder"]))
def test_any_batch_is_written_as_its_rows_alone(rows, seed, name, decoder_input):
    model, inputs = shared_model(decoder_input), ragged(rows, seed)
    arguments = {"eos_token_id": some_stops(model, **inputs, **ALL[name]), "max_new_tokens": NEW, **ALL[name]}
    together = model.generate(**inputs, **arguments)[:, inputs["input_ids"].shape[1] :].tolist()
    for row, ids, mask in zip(together, *inputs.values(), strict=True):
        alone = model.generate(ids[mask.bool()][None], **arguments)[0, int(mask.sum()) :].tolist()
        assert row == alone + [0] * (len(row) - len(alone))


@pytest.mark.parametrize("name", ["ar", "blt-dv one step", "blt-d one step"])
def test_a_conversation_goes_on_from_a_cache_whose_rows_had_left(name, with_rule):
    model, inputs = shared_model(), left_padded(prompts())
    stops, outputs = some_stops(model, **inputs, **ALL[name]), []
    for rule in ("never", "at once"):
        first, _ = with_rule(rule, model, stops, **inputs, return_dict_in_generate=True, **ALL[name])
        mask = torch.cat(
            [inputs["attention_mask"], (first.sequences[:, inputs["input_ids"].shape[1] :] != 0).long()], 1
        )
        more, question = {"return_dict_in_generate": True, **ALL[name]}, random_rows(4, 6, seed=9)[:, 1:]
        sequences = torch.cat([first.sequences, question], dim=1)
        mask = torch.cat([mask, torch.ones_like(question)], dim=1)
        cache = first.past_key_values
        second, fed = with_rule(
            rule, model, stops, input_ids=sequences, attention_mask=mask, past_key_values=cache, **more
        )
        assert second.past_key_values is cache
        outputs.append(second)
    assert_same(*outputs)
    assert len({len(row[row != 0]) for row in first.sequences[:, inputs["input_ids"].shape[1] :]}) > 1


@pytest.mark.parametrize("decoding", few(["ar", "blt-s", "blt-dv"], ["blt-dv"]))
def test_sampled_rows_are_distributed_as_without(decoding, with_rule):
    """The noise of a batch is drawn together, so texts differ from those of a batch in which all stay; not their
    distribution: lengths and last bytes of a thousand texts and more, by a chi-square test of two samples, seeds fixed.
    """
    model = tiny_model(seed=11, dtype=torch.float32).requires_grad_(False)
    model.lm_head.weight.mul_(6)
    stops, rows = [8, 58], cases(1000, 3000)
    kept = [*stops, 70, 80, 90]
    arguments = {"input_ids": random_rows(1, 12, seed=1), "do_sample": True, "num_return_sequences": rows}
    arguments |= {"suppress_tokens": [i for i in range(261) if i not in kept], "decoding": decoding, "top_k": 0}
    counts = []
    for rule in ("never", "at once"):
        torch.manual_seed(0)
        sequences, fed = with_rule(rule, model, stops, **arguments)
        written = sequences[:, 12:18]
        length = (written != 0).sum(1)
        last = written.gather(1, (length - 1)[:, None])[:, 0]
        counts.append(torch.bincount(length * 261 + last, minlength=7 * 261))
    assert min(fed) < rows / 3
    one, other = (count[(counts[0] + counts[1]) > 10].double() for count in counts)
    assert len(one) > 8
    statistic = ((one - other) ** 2 / (one + other)).sum()
    assert statistic < len(one) + 4 * (2 * len(one)) ** 0.5  # four standard deviations above the mean


class Rows(LogitsProcessor, StoppingCriteria):
    """Whatever a user's own processor or criterion is called with."""

    def __init__(self):
        self.seen = set()

    def __call__(self, input_ids, scores):
        self.seen.add(len(input_ids))
        return torch.zeros(len(input_ids), dtype=torch.bool) if scores is None else scores


class First:
    """A streamer that shows the first row of a batch."""

    def __init__(self):
        self.ids = []

    def put(self, value):
        self.ids += value.flatten().tolist()

    def end(self):
        pass


@pytest.mark.parametrize("name", ["ar", "blt-dv one step"])
def test_what_is_a_users_own_is_shown_the_whole_batch(name, with_rule):
    model, inputs, rows, streamer = shared_model(), ragged(9, seed=20), Rows(), First()
    stops = some_stops(model, **inputs, **ALL[name])
    whole, _ = with_rule("never", model, stops, **inputs, **ALL[name])
    for own in (
        {"logits_processor": LogitsProcessorList([rows])},
        {"stopping_criteria": StoppingCriteriaList([rows])},
        {"streamer": streamer},
    ):
        output, fed = with_rule("at once", model, stops, **inputs, **own, **ALL[name])
        assert set(fed) == {9} and torch.equal(output, whole)
    assert rows.seen == {9}
    first = whole[0, inputs["input_ids"].shape[1] :]
    assert streamer.ids[-int((first != 0).sum()) :] == first[first != 0].tolist()


def test_processors_that_judge_rows_by_themselves_are_no_obstacle(with_rule):
    model, inputs = shared_model(), ragged(9, seed=20)
    arguments = {**inputs, "no_repeat_ngram_size": 3, "valid_utf8": True, "decoding": "blt-s", "min_new_tokens": 2}
    stops = some_stops(model, **arguments)
    whole, _ = with_rule("never", model, stops, **arguments)
    output, fed = with_rule("at once", model, stops, **arguments)
    assert torch.equal(whole, output) and min(fed) < 9


def test_a_penalty_that_holds_the_prompts_lengths_is_shown_the_whole_batch(with_rule):
    model, inputs = shared_model(), ragged(9, seed=20)
    output, fed = with_rule("at once", model, [58], **inputs, repetition_penalty=1.2, decoding="ar")
    assert set(fed) == {9}
    assert torch.equal(output, with_rule("never", model, [58], **inputs, repetition_penalty=1.2, decoding="ar")[0])
