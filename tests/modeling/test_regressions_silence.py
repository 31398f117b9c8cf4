# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What `generate` and `forward` answered wrongly without a word, or never: each is right now, or refused by name."""

import pytest
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    SynthIDTextWatermarkingConfig,
    WatermarkingConfig,
)

from modeling_fblt.byte_choice_fblt import ByteChoice
from modeling_fblt.cache_fblt import RETAINED, FBLTCache
from modeling_fblt.configuration_fblt import BYTE_OFFSET, MASK_ID
from modeling_fblt.generation_state_fblt import ROOM, GenerationState
from modeling_fblt.processors_fblt import PURE
from tests.modeling.naive_decoding import (
    ALL,
    DRAFTED,
    NEVER,
    VERIFIED,
    generated,
    left_padded,
    naive_greedy,
    prompts,
    shared_model,
)
from tests.modeling.tiny import random_rows, tiny_model
from tests.thorough import long_run

STEPWISE = {
    "no cache": {"use_cache": False},
    "states": {"output_hidden_states": True, "return_dict_in_generate": True},
    "beams": {"num_beams": 3},
}
ONE = {"input_ids": random_rows(1, 9, seed=4)}


def sequences_of(output) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output.sequences


# --- 1. processors with a state ---


class Counting(LogitsProcessor):
    """Forbids another byte at each call, whatever the prefix is."""

    def __init__(self):
        self.calls = 0

    def __call__(self, input_ids, scores):
        self.calls += 1
        scores = scores.clone()
        best = scores.argsort(-1, descending=True)
        return scores.scatter(1, best[:, : self.calls % 5], -torch.inf)


class Forbidding(LogitsProcessor):
    """A pure function of the prefix: forbids what was likeliest where the prefix has an even length."""

    pure_in_prefix = True

    def __call__(self, input_ids, scores):
        return scores.scatter(1, scores.argmax(-1, keepdim=True), -torch.inf) if input_ids.shape[1] % 2 else scores


STATEFUL = {
    "guidance": lambda: {"guidance_scale": 1.7, "negative_prompt_ids": random_rows(1, 5, seed=8)},
    "synthid": lambda: {
        "watermarking_config": SynthIDTextWatermarkingConfig(keys=[3, 5, 7], ngram_len=3), "do_sample": True
    },
    "counting": lambda: {"logits_processor": LogitsProcessorList([Counting()])},
}  # fmt: skip


@pytest.mark.parametrize("kind", STATEFUL)
@pytest.mark.parametrize("name", ["blt-s", "blt-dv one step", "blt-dv pass, lookup"])
def test_a_processor_with_a_state_sees_what_plain_decoding_shows_it(name, kind):
    outputs = []
    for settings in ({"decoding": "ar", "use_cache": False}, ALL[name]):
        torch.manual_seed(0)
        arguments = {"do_sample": False, **STATEFUL[kind](), **settings}
        outputs.append(shared_model().generate(**ONE, max_new_tokens=14, eos_token_id=NEVER, **arguments))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_processor_with_a_state_is_refused_by_blt_d(kind):
    name = {"guidance": "guidance_scale", "synthid": "watermarking_config", "counting": "logits_processor"}[kind]
    with pytest.raises(ValueError, match=f"`{name}`.*'ar'"):
        shared_model().generate(**ONE, max_new_tokens=4, **STATEFUL[kind](), **DRAFTED["blt-d one step"])


def test_a_processor_says_that_it_is_pure_and_goes_with_drafts():
    arguments = {**ONE, "max_new_tokens": 14, "eos_token_id": NEVER, "return_dict_in_generate": True}
    found = {}
    for name in ("ar", "blt-s"):
        mine = LogitsProcessorList([Forbidding()])
        found[name] = shared_model().generate(**arguments, logits_processor=mine, **ALL[name])
    assert torch.equal(found["ar"].sequences, found["blt-s"].sequences)
    assert int(found["blt-s"].drafted) > 0
    undeclared = type("Undeclared", (LogitsProcessor,), {"__call__": Forbidding.__call__})()
    plain = shared_model().generate(**arguments, logits_processor=LogitsProcessorList([undeclared]), **ALL["blt-s"])
    assert torch.equal(plain.sequences, found["ar"].sequences) and int(plain.drafted) == 0


@pytest.mark.parametrize("name", ["blt-s", "blt-dv one step"])
def test_a_watermark_that_hangs_on_the_prefix_goes_with_drafts(name):
    arguments = {"watermarking_config": WatermarkingConfig(bias=4.0, context_width=1), "do_sample": False}
    whole = [
        shared_model().generate(**left_padded(prompts()), max_new_tokens=12, eos_token_id=NEVER, **arguments, **ALL[n])
        for n in ("ar", name)
    ]
    assert torch.equal(*whole) and len(PURE) > 20


def test_a_constraint_is_only_asked_about_prefixes_that_it_allows():
    """Bytes of a draft that it rules out, and other rows' lengths, would be prefixes that it has no answer for."""
    inputs, letters = left_padded(prompts()), list(range(70, 110))
    width = inputs["input_ids"].shape[1]

    def follows(row: int, ids: torch.Tensor) -> list[int]:
        new = ids[width:].tolist()
        assert all(a in letters for a in new), "asked about a prefix that is not allowed"
        return [i for i in letters if not new or i % 3 != new[-1] % 3]

    texts = [
        shared_model().generate(
            **inputs, max_new_tokens=12, eos_token_id=NEVER, prefix_allowed_tokens_fn=follows, **ALL[name]
        )
        for name in ("ar", *VERIFIED)
    ]
    assert all(torch.equal(text, texts[0]) for text in texts)


# --- 2. nothing left to choose ---


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("name", [*ALL, *STEPWISE])
@pytest.mark.parametrize("how", ["prefix_allowed_tokens_fn", "suppress_tokens"])
def test_where_only_mask_is_left_the_call_ends_with_an_error(name, how, do_sample):
    settings = {**ALL, **STEPWISE}[name]
    only_mask = {"prefix_allowed_tokens_fn": lambda row, ids: [MASK_ID], "suppress_tokens": list(range(MASK_ID))}
    with pytest.raises(ValueError, match=f"`{how}`"):
        shared_model().generate(**ONE, max_new_tokens=6, do_sample=do_sample, **{how: only_mask[how]}, **settings)


@pytest.mark.parametrize("name", ALL)
def test_where_a_constraint_would_break_a_character_the_call_ends_with_an_error(name):
    """A prefix constraint brings ids back that others ruled out; what `valid_utf8` ruled out stays so."""
    stray = BYTE_OFFSET + 0x80  # continues nothing
    with pytest.raises(ValueError, match="`valid_utf8`"):
        shared_model().generate(
            **ONE, max_new_tokens=6, valid_utf8=True, prefix_allowed_tokens_fn=lambda row, ids: [stray], **ALL[name]
        )


@pytest.mark.parametrize("name", ALL)
def test_mask_is_not_written_where_it_alone_has_no_bias_against_it(name):
    """Scores below any that a model has: the next best byte is written."""
    bias = {(i,): -1e30 for i in range(MASK_ID)}
    row = shared_model().generate(**ONE, max_new_tokens=6, sequence_bias=bias, eos_token_id=NEVER, **ALL[name])
    assert MASK_ID not in row[0].tolist() and row.shape[1] == 15


# --- 4. characters that a stop cuts ---


class AfterBytes(StoppingCriteria):
    def __init__(self, columns: int):
        self.columns = columns

    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((input_ids.shape[0],), input_ids.shape[1] >= self.columns)


@pytest.mark.parametrize("name", STEPWISE)
def test_a_character_that_a_stop_cuts_is_taken_back_without_a_cache_and_by_beams(name):
    inputs = left_padded([torch.tensor([1, *(b + BYTE_OFFSET for b in t.encode())]) for t in ("naïve — 😀", "a b")])
    columns, several = inputs["input_ids"].shape[1], list(range(BYTE_OFFSET + 128))
    shared = {"max_new_tokens": 12, "valid_utf8": True, "suppress_tokens": several, "do_sample": False}
    leads = list(range(BYTE_OFFSET + 0xE1, BYTE_OFFSET + 0xF0))
    cut = 0
    for stop in ({"eos_token_id": leads}, *({"eos_token_id": NEVER, "after": n} for n in (1, 2, 3, 4))):
        stop = dict(stop)
        after = stop.pop("after", None)
        if after is not None:
            stop["stopping_criteria"] = StoppingCriteriaList([AfterBytes(columns + after)])
        found = sequences_of(shared_model().generate(**inputs, **shared, **stop, **STEPWISE[name]))
        for row in found[:, columns:].tolist():
            bytes(i - BYTE_OFFSET for i in row if BYTE_OFFSET <= i < MASK_ID).decode("utf-8")
        cut += after is not None and found.shape[1] - columns < after
        if name != "beams":
            plain = shared_model().generate(**inputs, **shared, **stop, decoding="ar")
            assert torch.equal(found, plain)
    assert cut, "no stop fell inside a character"


# --- 5. padding on the right ---


@pytest.mark.parametrize("side", ["right", "middle"])
@pytest.mark.parametrize("name", [*STEPWISE, "ar", "blt-s", "blt-d one step"])
def test_padding_may_stand_anywhere(name, side):
    model, settings = shared_model(), {**STEPWISE, **ALL}[name]
    rows = [p for p in prompts() if len(p) > 1]
    width = max(map(len, rows)) + 2
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        place = torch.arange(len(row)) if side == "right" else torch.arange(len(row)) + (torch.arange(len(row)) > 2)
        ids[i, place], mask[i, place] = row, 1
    settings = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": NEVER, **settings}
    together = sequences_of(model.generate(ids, attention_mask=mask, **settings))
    assert torch.equal(together[:, :width], ids)
    for i, row in enumerate(rows):
        alone = sequences_of(model.generate(row[None], **settings))
        assert torch.equal(together[i, width:], alone[0, len(row) :])


def test_characters_go_on_over_padding_on_the_right():
    text = torch.tensor([1, *(b + BYTE_OFFSET for b in "né".encode()[:-1])])  # an open character
    ids = torch.nn.functional.pad(text, (0, 3))[None].expand(2, -1)
    mask = torch.tensor([[1] * len(text) + [0] * 3] * 2)
    shared = {"max_new_tokens": 8, "valid_utf8": True, "eos_token_id": NEVER}
    for name in ("ar", "blt-s", "blt-dv one step"):
        padded = shared_model().generate(ids, attention_mask=mask, **shared, **ALL[name])[0, -8:]
        assert torch.equal(padded, shared_model().generate(text[None], **shared, **ALL[name])[0, -8:])


# --- 6. caches ---


def a_cache(model=None, length: int = 12) -> tuple[FBLTCache, torch.Tensor]:
    """A cache and the text that it holds, one byte more."""
    model = model or shared_model()
    output = model.generate(
        random_rows(1, 8, seed=2), max_new_tokens=length - 8, eos_token_id=NEVER, return_dict_in_generate=True
    )
    return output.past_key_values, output.sequences


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("`past_key_values`.*`use_cache=False`", {"use_cache": False}),
        ("`past_key_values`.*`num_beams", {"num_beams": 2}),
        ("`past_key_values`.*rows", {"num_return_sequences": 2, "do_sample": True}),
    ],
)
def test_a_cache_that_does_not_go_with_a_setting_is_refused(words, settings):
    cache, text = a_cache()
    with pytest.raises(ValueError, match=words):
        shared_model().generate(text, past_key_values=cache, max_new_tokens=4, **settings)


@pytest.mark.parametrize("place", [0, 3, 9])
@pytest.mark.parametrize("settings", [{}, {"output_hidden_states": True, "return_dict_in_generate": True}])
def test_a_cache_of_another_text_is_refused(place, settings):
    cache, text = a_cache()
    edited = text.clone()
    edited[0, place] = (edited[0, place] + 1) % 256
    with pytest.raises(ValueError, match=f"`past_key_values`.*row 0.*byte {place} "):
        shared_model().generate(edited, past_key_values=cache, max_new_tokens=4, **settings)
    assert shared_model().generate(text, past_key_values=cache, max_new_tokens=4, **settings) is not None


def test_an_edited_byte_that_a_long_cache_has_dropped_is_refused():
    model, ids = shared_model(), random_rows(2, 6 * RETAINED, seed=9)
    cache = model(ids, use_cache=True).past_key_values
    more = torch.cat([ids, random_rows(2, 4, seed=10)], dim=1)
    assert (cache.origin.first > 0).all(), "nothing was dropped"
    assert torch.equal(cache.ids_so_far(), ids)
    for place in (1, int(cache.origin.first[1]) - 1, 6 * RETAINED - 1):
        edited = more.clone()
        edited[1, place] ^= 1
        with pytest.raises(ValueError, match=f"`past_key_values`.*row 1.*byte {place} "):
            model.generate(edited, past_key_values=cache, max_new_tokens=2)
    fresh = model.generate(more, max_new_tokens=6, eos_token_id=NEVER)
    assert torch.equal(model.generate(more, past_key_values=cache, max_new_tokens=6, eos_token_id=NEVER), fresh)


def test_a_cache_of_another_model_or_another_batch_is_refused_by_forward():
    cache, _ = a_cache()
    other = tiny_model(decoder_config={"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 48})
    with pytest.raises(ValueError, match="`past_key_values`"):
        other(random_rows(1, 3), past_key_values=cache)
    with pytest.raises(ValueError, match="`past_key_values`"):
        shared_model()(random_rows(2, 3), past_key_values=cache)
    with pytest.raises(ValueError, match="`past_key_values`"):
        shared_model()(random_rows(1, 3), past_key_values=object())


def test_rows_of_a_ragged_cache_go_on_step_by_step():
    model, inputs = shared_model(), left_padded(prompts())
    arguments = {"eos_token_id": NEVER, "do_sample": False, "return_dict_in_generate": True}
    # With drafts, rows are at different places when the cache comes back to the caller.
    first = model.generate(**inputs, max_new_tokens=7, **arguments, **ALL["blt-s"])
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 7), value=1)
    cache, more = first.past_key_values, {"input_ids": first.sequences, "attention_mask": mask}
    cache.truncate(torch.minimum(cache.lengths, torch.tensor([20, 3, 18, 11])))
    second = model.generate(**more, past_key_values=cache, max_new_tokens=5, output_hidden_states=True, **arguments)
    assert torch.equal(second.sequences, model.generate(**inputs, max_new_tokens=12, **arguments).sequences)


# --- 7. labels ---


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_labels_of_another_shape_are_refused(training, masked):
    model, ids = tiny_model().train(training), random_rows(3, 10)
    mask = torch.ones_like(ids) if masked else None
    for labels in (ids[:1], ids[:, :9], ids[0], ids[:, :, None]):
        for name in ("labels", "shift_labels"):
            with pytest.raises(ValueError, match=f"`{name}`.*shape"):
                model(ids, attention_mask=mask, **{name: labels})
    with pytest.raises(ValueError, match=r"`labels` and `shift_labels`"):
        model(ids, labels=ids, shift_labels=ids)
    for wrong in (260, -1, 1000):
        with pytest.raises(ValueError, match="`labels`"):
            model(ids, labels=torch.full_like(ids, wrong))
    with pytest.raises(TypeError, match="`labels`"):
        model(ids, labels=ids.float())


# --- 11. lengths that nobody reaches ---


@pytest.mark.parametrize("name", ["ar", "blt-s", "blt-dv one step", "blt-d one step"])
def test_memory_follows_what_is_written_and_not_what_may_be(name, monkeypatch):
    sizes, ended = [], GenerationState.has_ended

    def measured(self, asked):
        sizes.append(self.text.shape[1])
        return ended(self, asked)

    monkeypatch.setattr(GenerationState, "has_ended", measured)
    stop = StoppingCriteriaList([AfterBytes(9 + 30)])
    row = shared_model().generate(**ONE, max_new_tokens=10**7, eos_token_id=NEVER, stopping_criteria=stop, **ALL[name])
    assert row.shape[1] == 9 + 30 and max(sizes) < 4 * ROOM


@long_run
def test_the_buffer_grows_with_the_text():
    new = ROOM + 150
    plain = generated(shared_model(), ONE, new, decoding="ar")
    assert generated(shared_model(), ONE, new, **VERIFIED["blt-s"]) == plain
    assert plain[0][:20] == naive_greedy(shared_model(), ONE["input_ids"][0], 20)


def test_copies_keep_their_processors():
    choice = ByteChoice(LogitsProcessorList([Forbidding()]), True, MASK_ID)
    assert choice.greedy().processors == choice.processors and not choice.greedy().do_sample and choice.do_sample
