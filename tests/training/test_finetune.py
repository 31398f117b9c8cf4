"""The fine-tuning example end to end on a tiny model, and what TRL's SFTTrainer trains of an FBLT."""

import random

import pytest
import torch
from datasets import Dataset
from fblt.training.examples import finetune
from transformers import AutoTokenizer, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from modeling_fblt import FBLTForCausalLM
from modeling_fblt.configuration_fblt import MASK_ID
from tests.cli import refusal, succeed
from tests.modeling.tiny import random_rows, tiny_model

WORDS = ("return", "x", "for i in range(9):", "def f(a, b):", "\n", "    ", "# why", "écrit", "1 + 2")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder of 12 small Python files, one in a folder of its own, and a file that is none."""
    folder, generator = tmp_path_factory.mktemp("texts"), random.Random(0)
    (folder / "inner").mkdir()
    for number in range(12):
        place = folder / "inner" if number == 11 else folder
        (place / f"file{number}.py").write_text(" ".join(generator.choices(WORDS, k=400)), encoding="utf-8")
    (folder / "notes.md").write_text("not code")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model(seed=4, dtype=torch.float32).save_pretrained(folder)
    return folder


def test_whole_files_are_held_out_and_the_same_every_time(texts):
    train, held_out = finetune.read_files([texts], ".py")
    assert len(train) + len(held_out) == 12 and held_out
    assert not set(train) & set(held_out)
    assert (train, held_out) == finetune.read_files([texts], ".py")
    # A file more moves no other file to the other side.
    (texts / "extra.py").write_text("x = 1\n")
    more = finetune.read_files([texts], ".py")
    (texts / "extra.py").unlink()
    assert set(train) <= set(more[0]) and set(held_out) <= set(more[1])


def test_too_few_files_are_refused(texts, checkpoint):
    message = refusal(finetune.main, "--model", checkpoint, "--text", texts, "--suffix", ".md")
    assert "give folders with more files" in message


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--lora", "--rank", "2"]])
def test_the_example_trains_and_saves_a_model_that_loads(texts, checkpoint, tmp_path, monkeypatch, options):
    for name, value in {"ROW": 64, "BATCH": 2, "ANCHORS": 10, "CONTEXT": 70, "SHOWN": 3}.items():
        monkeypatch.setattr(finetune, name, value)
    command = ["--model", str(checkpoint), "--text", str(texts), "--steps", "3", "--output", str(tmp_path / "out")]
    printed = succeed(finetune.main, *command, *options)
    for expected in ("bits per byte", "held-out files", "draft before", "the file goes on", "3 steps in"):
        assert expected in printed
    result, base = (FBLTForCausalLM.from_pretrained(folder) for folder in (tmp_path / "out", checkpoint))
    changed = {n for n, w in result.state_dict().items() if not torch.equal(w, base.state_dict()[n])}
    assert changed and not any("patcher" in name for name in changed)
    # Adapters leave embeddings, norms and the head alone.
    assert ("lm_head.weight" in changed) == (not options)
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").is_file() == bool(options)


def embedding_of_mask(model) -> torch.Tensor:
    """Block bytes alone enter the decoder as `<mask>`: only the block loss trains its embedding."""
    return model.model.decoder.embed_tokens.weight[MASK_ID].detach().clone()


@pytest.mark.slow
def test_trls_trainer_runs_and_leaves_out_the_block_loss(checkpoint, tmp_path):
    settings = {"max_steps": 2, "learning_rate": 1e-2, "per_device_train_batch_size": 2, "weight_decay": 0.0}
    settings |= {"report_to": [], "use_cpu": True, "bf16": False, "disable_tqdm": True, "save_strategy": "no"}
    model = FBLTForCausalLM.from_pretrained(checkpoint)
    examples = Dataset.from_list([{"prompt": f"{n} + {n} =", "completion": f" {n + n}"} for n in range(4)])
    before, head, patcher = embedding_of_mask(model), model.lm_head.weight.clone(), model.model.patcher.state_dict()
    patcher = {name: weight.clone() for name, weight in patcher.items()}
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=True)
    sft = SFTTrainer(model, SFTConfig(str(tmp_path), **settings), train_dataset=examples, processing_class=tokenizer)
    assert sft.train().training_loss > 0
    assert not torch.equal(model.lm_head.weight, head)
    assert torch.equal(embedding_of_mask(model), before)
    # It also counts `<mask>` among the bytes that may come next, which the model itself does not.
    assert not torch.equal(model.lm_head.weight[MASK_ID], head[MASK_ID])
    assert all(torch.equal(weight, patcher[name]) for name, weight in model.model.patcher.state_dict().items())

    # The Trainer uses the model's own loss, which has both terms.
    rows = [{"input_ids": ids, "labels": ids} for ids in random_rows(4, 40)]
    head = model.lm_head.weight.clone()
    Trainer(model, TrainingArguments(str(tmp_path), **settings), train_dataset=rows).train()
    assert not torch.equal(embedding_of_mask(model), before)
    assert torch.equal(model.lm_head.weight[MASK_ID], head[MASK_ID]) and not torch.equal(model.lm_head.weight, head)
