# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""With `valid_utf8=True` whatever is returned decodes strictly: any weights, decoding, length and stop."""

import functools

import pytest
import torch
from transformers import MaxTimeCriteria, StoppingCriteria, StoppingCriteriaList

from modeling_fblt.configuration_fblt import BYTE_OFFSET, MASK_ID
from tests.modeling.naive_decoding import ALL, FEW, NEVER, VERIFIED, generated, left_padded, prompts, shared_model
from tests.modeling.tiny import tiny_model
from tests.thorough import cases, few

EQUAL_TO_AR = ["ar", *VERIFIED]


def text_of(ids: list[int]) -> str:
    """The bytes of some ids, decoded strictly; special ids stand between characters and are left out."""
    return bytes(i - BYTE_OFFSET for i in ids if BYTE_OFFSET <= i < MASK_ID).decode("utf-8")


def ascii_prompts() -> list[torch.Tensor]:
    texts = ["The quick brown", "", "na\u00efve \u2014 \U0001f600"]
    return [torch.tensor([1, *(b + BYTE_OFFSET for b in text.encode())]) for text in texts]


@pytest.mark.parametrize("name", few(ALL, FEW))
@pytest.mark.parametrize("do_sample", [False, True])
def test_everything_that_is_written_decodes(name, do_sample):
    torch.manual_seed(5)
    inputs = left_padded(ascii_prompts())
    for new in (1, 2, 3, 7, 20):
        sequences = shared_model().generate(
            **inputs, max_new_tokens=new, valid_utf8=True, do_sample=do_sample, eos_token_id=NEVER, **ALL[name]
        )
        assert sequences.shape[1] == inputs["input_ids"].shape[1] + new
        for row in sequences[:, -new:].tolist():
            text_of(row)


@functools.cache
def written(name: str, valid_utf8: bool) -> list[list[int]]:
    inputs = left_padded([*ascii_prompts(), *prompts()])
    return generated(shared_model(), inputs, 24, valid_utf8=valid_utf8, **ALL[name])


@pytest.mark.parametrize("name", EQUAL_TO_AR)
def test_verified_decodings_still_equal_ar(name):
    assert written(name, valid_utf8=True) == written("ar", valid_utf8=True) != written("ar", valid_utf8=False)


def test_random_weights_decode():
    """Many small models, each sampled hot, in every decoding in turn."""
    models, rows = cases(5, 50), 20
    modes = list(ALL.values())
    prompt = ascii_prompts()[0][None].expand(rows, -1)
    for seed in range(models):
        model = tiny_model(seed=100 + seed, dtype=torch.float32, boundary_share=0.4)
        torch.manual_seed(seed)
        sequences = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=1 + seed % 13,
            do_sample=True,
            top_k=0,
            valid_utf8=True,
            **modes[seed % len(modes)],
        )
        for row in sequences[:, prompt.shape[1] :].tolist():
            text_of(row)


class AfterBytes(StoppingCriteria):
    def __init__(self, columns: int):
        self.columns = columns

    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((input_ids.shape[0],), input_ids.shape[1] >= self.columns)


@pytest.mark.parametrize("name", few(ALL, FEW))
def test_a_stop_inside_a_character_takes_it_back(name):
    inputs = {"input_ids": ascii_prompts()[2][None]}
    columns = inputs["input_ids"].shape[1]
    cut, ascii_ids = set(), list(range(BYTE_OFFSET + 128))  # without them every character has several bytes
    for new in range(1, 14):
        stop = StoppingCriteriaList([AfterBytes(columns + new)])
        settings = {"max_new_tokens": 20, "valid_utf8": True, "eos_token_id": NEVER, "suppress_tokens": ascii_ids}
        settings |= ALL[name]
        row = shared_model().generate(**inputs, stopping_criteria=stop, **settings)[0, columns:].tolist()
        text_of(row)
        cut.add(new - len(row))
    assert min(cut) == 0 and max(cut) > 0, "no stop fell inside a character"
    stop = StoppingCriteriaList([MaxTimeCriteria(0.0)])
    text_of(shared_model().generate(**inputs, stopping_criteria=stop, **settings)[0, columns:].tolist())


@pytest.mark.parametrize("name", EQUAL_TO_AR)
def test_a_row_whose_prompt_ends_inside_a_character_that_has_no_room_is_padded_beside_others(name):
    """It writes nothing, alone and together: what stands after it is padding."""
    opened = torch.tensor([1, 0xF2 + BYTE_OFFSET])  # the first of four bytes
    settings = {"max_new_tokens": 1, "valid_utf8": True, "eos_token_id": NEVER, "pad_token_id": 0, **ALL[name]}
    alone = shared_model().generate(opened[None], attention_mask=torch.ones(1, 2), **settings)
    assert alone.tolist() == [opened.tolist()]
    other = ascii_prompts()[0]
    inputs = left_padded([opened, other])
    together = shared_model().generate(**inputs, **settings)[:, len(other) :]
    assert together[0].tolist() == [0] and together[1].item() >= BYTE_OFFSET
