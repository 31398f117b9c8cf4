# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What `forward`, `patch` and `generate` are given is checked before any work: used, or refused by its name."""

import inspect
from typing import Any

import pytest
import torch
from transformers import StoppingCriteria, TopKLogitsWarper

from modeling_fblt.block_loss_fblt import IGNORED
from modeling_fblt.modeling_fblt import FBLTForCausalLM
from tests.modeling.naive_decoding import NEVER, shared_model
from tests.modeling.tiny import random_rows, tiny_model

IDS = random_rows(2, 7, seed=12)
NAN = float("nan")
ONES = torch.ones(2, 7, dtype=torch.long)

# By argument: values that `forward`, `patch` and `generate` refuse by its name.
INPUTS = {
    "input_ids": [
        None, [[1, 2]], "abc", IDS.float(), IDS.bool(), IDS[0], IDS[None], IDS[:0], IDS[:, :0], IDS + 250, IDS - 200,
    ],
    "attention_mask": [[[1] * 7] * 2, "x", ONES[0], ONES[:1], ONES[:, :6], ONES * 2, ONES - 2, ONES * 0.5],
    "position_ids": [ONES, "x", ONES.cumsum(1).double(), ONES.cumsum(1)[:, :3]],
    "inputs_embeds": [torch.ones(2, 7, 32)],
    "past_key_values": ["x", ((ONES, ONES),), object()],
}  # fmt: skip
# The same of `forward` alone.
FORWARD = {
    "labels": [IDS[:1], IDS[:, :3], IDS.float(), "x", [1], IDS + 250, IDS - 300],
    "shift_labels": [IDS[:1], IDS.double(), IDS + 250],
    "patch_starts": [torch.ones(2, 7).bool(), torch.ones(2, 8), "x", torch.arange(8).expand(2, -1) != 1],
    "cu_seq_lens_q": [ONES],
    "use_cache": ["False", 1, ONES],
    "output_hidden_states": ["x", 1],
    "return_dict": ["x", 0],
    "logits_to_keep": ["x", -1, 2.5, True, ONES, ONES[0] * 7, ONES[0] * -8],
    "num_items_in_batch": ["x", 0, -3, NAN],
    "is_causal": [False],
    "attention_masks": [ONES],
}
# And of `generate`.
GENERATE = {
    "labels": [IDS],
    "shift_labels": [IDS],
    "patch_starts": [torch.ones(2, 8).bool()],
    "logits_to_keep": [1],
    "attention_mask": [torch.ones(2, 9, dtype=torch.long)],
    "confidence_threshold": [None, NAN, "x", 1.5, -0.1, True],
    "entropy_bound": [None, NAN, "x", -1.0],
    "draft_cost": [NAN, "x", -1, {"call": None}, {"call": NAN}, {"byte": 1.0}],
    "draft_confidence": [NAN, "x", 2],
    "paper_passes": ["False", None, 1],
    "valid_utf8": ["False", None, 1],
    "close_patch": ["x", None],
    "draft_head": ["x", 1],
    "decoding": [None, "x", 3, ["ar"]],
    "draft_length": [None, 0, 2.5, "long", True, NAN],
    "block_size": [1, 2.5, "x", True],
    "refine_steps": [None, -1, 1.5, "x"],
    "unmasking": ["x", 1],
    "max_new_tokens": ["x", 0, -1, 2.5, NAN, 10**30, [3]],
    "min_new_tokens": ["x", -1, 0.5],
    "num_beams": ["2", 0, -1, 2.5, 10**9],
    "num_return_sequences": ["2", 0, 1.5],
    "do_sample": ["yes", 1],
    "use_cache": ["False", 0],
    "temperature": [NAN, "hot", -1.0],
    "top_k": [-4, 2.5, "x"],
    "top_p": [NAN, 1.5, "x"],
    "repetition_penalty": [0.0, -1.0, "x", NAN, 10**400],
    "guidance_scale": ["x", NAN, 10**30],  # torch computes with integers of 64 bits
    "max_time": ["x", NAN, -1.0],
    "eos_token_id": ["x", 2.5, 500, [2, "x"]],
    "pad_token_id": [-1, 300, "x"],
    "forced_bos_token_id": ["x", 2.5, 300, []],
    "forced_eos_token_id": ["x", 2.5, 300, []],
    "suppress_tokens": ["x", [300], [2.5], 7],
    "bad_words_ids": ["x", [[300]], [[]], [3], []],
    "sequence_bias": [3, {(1,): "x"}, {(1, 300): 2.0}, {1: 2.0}, [[[1], NAN]]],
    "stop_strings": [4, [4], ["a", None], [], "", ["a", ""], "without a tokenizer"],
    "generation_config": [{"max_new_tokens": 4}, "x"],
    "logits_processor": [3, [3], "x", [TopKLogitsWarper], [lambda ids, scores: None]],
    "stopping_criteria": [3, "x", [StoppingCriteria]],
    "prefix_allowed_tokens_fn": [3],
    "streamer": [4],
    "tokenizer": [3],
    "watermarking_config": [3, {3: 2.5}, {"bias": "x"}, {"greenlist_ratio": NAN}, {"keys": 4}],
    "synced_gpus": [True, "x", ONES],
    "encoder_no_repeat_ngram_size": ["x", -1, 10**9],
    "encoder_repetition_penalty": ["x", 0, NAN],
    "negative_prompt_ids": ["x", IDS.float(), IDS + 250],
    "cache_implementation": ["static", "paged", 3],
    "assistant_model": [3],
    "penalty_alpha": [0.6],
    "num_beam_groups": [2, ONES],
    "token_healing": [True, ONES],
}


def pairs(table: dict[str, list]) -> list:
    return [pytest.param(name, id=name) for name in table]


def refused(name: str, call) -> None:
    with pytest.raises((ValueError, TypeError), match=f"`{name}`"):
        call()


@pytest.mark.parametrize("name", pairs(INPUTS))
def test_inputs_that_cannot_be_used_are_refused_by_name(name):
    model = shared_model()
    for value in INPUTS[name]:
        given: dict[str, Any] = {"input_ids": IDS, name: value}
        refused(name, lambda given=given: model(**given))
        if value is not None:  # `generate` then begins with `<s>`
            refused(name, lambda given=given: model.generate(**given, max_new_tokens=2))
        if name in ("input_ids", "attention_mask"):
            refused(name, lambda given=given: model.patch(**given))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", pairs(FORWARD))
def test_forward_refuses_by_name(name, training):
    model = tiny_model().train(training)
    for value in FORWARD[name]:
        given = {name: value} if "label" in name else {"labels": IDS, name: value}
        refused(name, lambda given=given: model(IDS, **given))


@pytest.mark.parametrize("name", pairs(GENERATE))
def test_generate_refuses_by_name(name):
    for value in GENERATE[name]:
        given = {"input_ids": IDS, "max_new_tokens": 2, name: value}
        if name == "negative_prompt_ids":
            given["guidance_scale"] = 2.0
        refused(name, lambda given=given: shared_model().generate(**given))


def test_a_mask_without_ids_is_refused():
    for mask in ([], ONES):
        refused("attention_mask", lambda mask=mask: shared_model().generate(attention_mask=mask, max_new_tokens=2))


@pytest.mark.parametrize(
    ("name", "given", "same"),
    [
        ("repetition_penalty", 2, 2.0),
        ("encoder_repetition_penalty", 3, 3.0),
        ("temperature", 2, 2.0),
        ("num_return_sequences", None, 1),
        ("num_beams", None, 1),
    ],
)
def test_what_says_the_same_writes_the_same(name, given, same):
    written = []
    for value in (given, same):
        torch.manual_seed(0)
        settings = {name: value, "do_sample": name == "temperature"}
        written.append(shared_model().generate(IDS, max_new_tokens=6, eos_token_id=NEVER, **settings))
    assert torch.equal(*written)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_ids_may_be_of_any_integer_type(dtype):
    ids = IDS.clamp(max=120)
    for model in (shared_model(), tiny_model().train()):
        labels = ids.where(ids > 40, 50)
        torch.manual_seed(0)
        expected = model(ids, labels=labels).loss
        torch.manual_seed(0)
        assert torch.equal(model(ids.to(dtype), labels=labels.to(dtype)).loss, expected)
    model = shared_model()
    assert torch.equal(model.patch(ids.to(dtype)).patch_starts, model.patch(ids).patch_starts)
    given = {"max_new_tokens": 6, "eos_token_id": NEVER}
    for settings in ({}, {"use_cache": False}, {"num_beams": 2}):
        written = model.generate(ids.to(dtype), **given, **settings)
        assert written.dtype == torch.long and torch.equal(written, model.generate(ids, **given, **settings))


def test_what_wrappers_hand_on_without_meaning_is_taken():
    model = shared_model()
    expected = model(IDS).logits
    nothing = {"position_ids": None, "inputs_embeds": None, "labels": None, "task_ids": None, "is_causal": True}
    for given in (nothing, {"return_dict": True}, {"output_router_logits": False}, {"attention_mask": ONES.bool()}):
        assert torch.equal(model(IDS, **given).logits, expected)
    assert torch.equal(model(IDS, attention_mask=ONES.double()).logits, expected)
    model(IDS, labels=IDS.masked_fill(IDS < 4, IGNORED), num_items_in_batch=torch.tensor(3))


def test_the_signature_of_generate_is_transformers_own():
    names = list(inspect.signature(FBLTForCausalLM.generate).parameters)
    assert names[:4] == ["self", "inputs", "generation_config", "logits_processor"]
