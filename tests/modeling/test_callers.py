# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Those who call `generate` for others run unmodified: pipelines, streamers, lm-eval."""

import json
from pathlib import Path
from threading import Thread

import pytest
import torch
import yaml
from transformers import TextDiffusionStreamer, TextIteratorStreamer, TextStreamer, pipeline

from modeling_fblt.configuration_fblt import BOS_ID, BYTE_OFFSET, MASK_ID
from modeling_fblt.tokenization_fblt import build_tokenizer
from tests.modeling.naive_decoding import ALL, FEW, NEVER
from tests.modeling.tiny import tiny_model
from tests.thorough import few

pytestmark = pytest.mark.contract

WORDS = ["one", "two words", "a third answer"]


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=3, dtype=torch.float32).requires_grad_(False)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def plain_text(model, tokenizer, text: str, new: int, **settings) -> str:
    inputs = tokenizer(text, return_tensors="pt")
    settings = {"decoding": "ar", "do_sample": False, **settings}
    sequences = model.generate(**inputs, max_new_tokens=new, valid_utf8=True, **settings)
    return tokenizer.decode(sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("name", few(ALL, FEW))
def test_a_text_generation_pipeline(model, tokenizer, name):
    writer = pipeline("text-generation", model=model, tokenizer=tokenizer)
    settings = {"max_new_tokens": 12, "do_sample": False, "valid_utf8": True, "return_full_text": False}
    found = writer(WORDS, **settings, **ALL[name])
    assert [f[0]["generated_text"] for f in found] == [
        plain_text(model, tokenizer, word, 12, **ALL[name]) for word in WORDS
    ]
    # Batched, the rows are padded on the left.
    batched = writer(WORDS, batch_size=3, **settings, **ALL[name])
    assert batched == found


def test_a_pipeline_samples_by_default(model, tokenizer):
    torch.manual_seed(0)
    writer = pipeline("text-generation", model=model, tokenizer=tokenizer)
    texts = [writer("one", max_new_tokens=12, do_sample=True, valid_utf8=True)[0]["generated_text"] for _ in range(3)]
    assert len(set(texts)) > 1 and all(text.startswith("one") for text in texts)


@pytest.mark.parametrize("name", few(ALL, FEW))
def test_text_streamers(model, tokenizer, name, capsys):
    inputs = tokenizer("one", return_tensors="pt")
    settings = {"max_new_tokens": 30, "do_sample": False, "valid_utf8": True, **ALL[name]}
    expected = plain_text(model, tokenizer, "one", 30, **ALL[name])

    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    thread = Thread(target=model.generate, kwargs={**inputs, **settings, "streamer": streamer})
    thread.start()
    assert "".join(streamer) == expected
    thread.join()

    for kind in (TextStreamer, TextDiffusionStreamer):
        capsys.readouterr()
        model.generate(**inputs, **settings, streamer=kind(tokenizer, skip_prompt=True, skip_special_tokens=True))
        shown = capsys.readouterr().out
        if kind is TextStreamer:
            assert shown == expected + "\n"
        else:
            # Drafts are written, and the cursor goes back before the bytes that were kept.
            assert ("\0337" in shown) == (name != "ar") and shown.count("\0337") >= shown.count("\0338")


def test_a_conversation_costs_only_its_new_bytes(model):
    """A second turn, with the first one's cache: its bytes are fed once, and the text is what it would be without."""
    first = torch.tensor([[BOS_ID, *(b + BYTE_OFFSET for b in b"A question of some length, asked at leisure?\n")]])
    settings = {"max_new_tokens": 20, "eos_token_id": NEVER, "return_dict_in_generate": True, "decoding": "blt-s"}
    answer = model.generate(first, **settings)
    turn = torch.tensor([[b + BYTE_OFFSET for b in b"\nAnd another.\n"]])
    whole = torch.cat([answer.sequences, turn], dim=1)
    fed = []
    patcher = model.model.patcher
    hook = patcher.register_forward_hook(lambda module, args, output: fed.append(args[0].shape[1]))
    second = model.generate(whole, past_key_values=answer.past_key_values, **settings)
    hook.remove()
    assert fed[0] == turn.shape[1] + 1  # the carried byte and the new turn
    alone = model.generate(whole, **settings)
    assert torch.equal(second.sequences, alone.sequences)
    assert torch.equal(second.patcher_nfe, alone.patcher_nfe)


def write_tasks(folder: Path) -> None:
    """Two tasks over a local file: answers to choose from, and text to continue up to a stop string."""
    rows = [{"question": f"Question {i}", "answers": ["yes", "no indeed"], "label": i % 2} for i in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{question}}:",
    }
    choice = {
        "task": "tiny_choice",
        "output_type": "multiple_choice",
        "doc_to_choice": "answers",
        "doc_to_target": "label",
    }
    until = {
        "task": "tiny_until",
        "output_type": "generate_until",
        "doc_to_target": "{{answers[label]}}",
        "generation_kwargs": {"until": ["a", "\n"], "max_gen_toks": 24, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    for task in (choice, until):
        (folder / f"{task['task']}.yaml").write_text(yaml.safe_dump({**shared, **task}))


def test_lm_eval_runs_unmodified(model, tokenizer, tmp_path):
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    write_tasks(tmp_path)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    scores, texts = {}, {}
    for decoding in ("ar", "blt-s", "blt-dv"):
        model.generation_config.decoding = decoding
        harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, max_length=200)
        results = lm_eval.simple_evaluate(
            model=harness, tasks=["tiny_choice", "tiny_until"], task_manager=manager, bootstrap_iters=0
        )
        samples = results["samples"]
        scores[decoding] = [sample["resps"] for sample in samples["tiny_choice"]]
        texts[decoding] = [sample["resps"] for sample in samples["tiny_until"]]
    model.generation_config.decoding = "blt-dv"
    assert scores["ar"] == scores["blt-s"] == scores["blt-dv"]
    assert texts["ar"] == texts["blt-s"] == texts["blt-dv"]
    # The likelihood of an answer is what a full pass gives.
    ids = tokenizer("Question 0:", return_tensors="pt").input_ids
    answer = torch.tensor([[b + BYTE_OFFSET for b in b" yes"]])
    logits = model(torch.cat([ids, answer], dim=1), use_cache=False).logits[0, ids.shape[1] - 1 : -1]
    expected = torch.log_softmax(logits.float(), -1).gather(1, answer[0][:, None]).sum()
    first = scores["ar"][0][0][0]
    assert float(first[0]) == pytest.approx(float(expected), abs=1e-3)
    assert all("\n" not in text and "a" not in text for row in texts["ar"] for group in row for text in group)
    assert MASK_ID not in ids
