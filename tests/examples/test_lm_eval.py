"""The tasks of examples/lm_eval run offline, and their figures are those of the model."""

import json
import math
from pathlib import Path

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from modeling_fblt.configuration_fblt import BYTE_OFFSET
from modeling_fblt.tokenization_fblt import build_tokenizer
from tests.modeling.tiny import tiny_model
from tests.thorough import long_run

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "lm_eval"
TEXT = "A text of some length, with an é in it.\nAnd a second line.\n"


@pytest.fixture(scope="module")
def model():
    return tiny_model(seed=3, dtype=torch.float32).requires_grad_(False)


def run(model, task: str, folder: Path, monkeypatch, **settings) -> dict:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    harness = HFLM(pretrained=model, tokenizer=build_tokenizer(), batch_size=2, **settings)
    manager = TaskManager(include_path=str(FOLDER), include_defaults=False)
    return simple_evaluate(model=harness, tasks=[task], task_manager=manager, bootstrap_iters=0)


@pytest.mark.parametrize("window", [pytest.param(None, marks=long_run), 24])
def test_bits_per_byte_of_a_text(model, window, tmp_path, monkeypatch):
    (tmp_path / "LICENSE").write_text(TEXT, encoding="utf-8")
    results = run(model, "byte_text", tmp_path, monkeypatch, max_length=window, add_bos_token=False)
    content = TEXT.encode()
    nats = 0.0
    for start in range(0, len(content), window or len(content)):
        # A window's bytes are predicted with as many bytes before them as fit beside them: in the first one, `<s>`.
        end = min(start + (window or len(content)), len(content))
        first = max(end - (window or len(content)) - 1, -1)
        ids = [1] if first < 0 else []
        ids += [byte + BYTE_OFFSET for byte in content[max(first, 0) : end]]
        row = torch.tensor([ids])
        log_p = torch.log_softmax(model(row[:, :-1], use_cache=False).logits.float(), -1)
        nats -= float(log_p[0].gather(1, row[0, 1:, None])[-(end - start) :].sum())
    found = results["results"]["byte_text"]["bits_per_byte,none"]
    assert found == pytest.approx(nats / math.log(2) / len(content), rel=1e-4)


def test_words_are_copied_up_to_a_stop_string(model, tmp_path, monkeypatch):
    folder = tmp_path / "examples" / "lm_eval"
    folder.mkdir(parents=True)
    words = (FOLDER / "words.jsonl").read_text(encoding="utf-8").splitlines()[:3]
    (folder / "words.jsonl").write_text("\n".join(words), encoding="utf-8")
    results = run(model, "byte_copy", tmp_path, monkeypatch)
    samples = results["samples"]["byte_copy"]
    tokenizer = build_tokenizer()
    for sample in samples:
        prompt = sample["arguments"][0][0]
        assert prompt.endswith(f"word: {sample['doc']['word']}\ncopy:")
        ids = tokenizer(prompt, return_tensors="pt")
        written = model.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids.input_ids.shape[1] :]
        text = tokenizer.decode(written, skip_special_tokens=True)
        for stop in ("\n", "word"):
            text = text.split(stop)[0]
        assert sample["resps"] == [[text]]
    assert results["results"]["byte_copy"]["exact_match,line"] == 0.0
    assert {json.loads(word)["word"] for word in words} == {sample["doc"]["word"] for sample in samples}


def test_the_context_is_said_in_bytes(model):
    harness = HFLM(pretrained=model, tokenizer=build_tokenizer())
    assert harness.max_length == model.config.max_position_embeddings == 8192
