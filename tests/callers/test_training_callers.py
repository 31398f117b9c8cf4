"""Those who train FBLT for others: transformers' Trainer and TRL, unmodified, with documents packed without padding."""

import datasets
import pytest
import torch
from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from modeling_fblt.tokenization_fblt import build_tokenizer
from tests.modeling.tiny import tiny_model

SHARED = {
    "max_steps": 1,
    "learning_rate": 1e-3,
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1,
    "disable_tqdm": True,
}


def trainable():
    return tiny_model(seed=3, dtype=torch.float32, diffusion_t_min=1 - 1e-9).train()


def watched(model) -> list[dict]:
    """What `forward` is given from here on."""
    seen = []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    return seen


def finite(trainer) -> None:
    assert torch.isfinite(torch.tensor(trainer.state.log_history[0]["loss"]))


def test_flattened_rows_cost_what_they_cost_alone(tmp_path):
    """`DataCollatorWithFlattening` marks documents by positions alone."""
    tokenizer, model = build_tokenizer(), trainable()
    rows = [{"input_ids": tokenizer(text).input_ids} for text in ("one text", "and a second, longer one", "three")]
    with torch.no_grad():
        alone = [model(torch.tensor([row["input_ids"]]), labels=torch.tensor([row["input_ids"]])).loss for row in rows]
    bytes_of = torch.tensor([len(row["input_ids"]) - 1.0 for row in rows])
    expected = (torch.stack(alone) * bytes_of).sum() / bytes_of.sum()
    seen = watched(model)
    arguments = TrainingArguments(tmp_path, per_device_train_batch_size=3, **SHARED)
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=DataCollatorWithFlattening())
    trainer.train()
    assert seen[0]["input_ids"].shape == (1, 3 + sum(map(len, ("one text", "and a second, longer one", "three"))))
    assert int((seen[0]["position_ids"] == 0).sum()) == 3
    assert trainer.state.log_history[0]["loss"] == pytest.approx(float(expected), abs=2e-3)


def test_trl_packs_texts(tmp_path):
    model = trainable()
    seen = watched(model)
    texts = datasets.Dataset.from_list([{"text": f"Text number {i}, not a long one."} for i in range(6)])
    arguments = SFTConfig(str(tmp_path), packing=True, max_length=96, per_device_train_batch_size=1, **SHARED)
    trainer = SFTTrainer(model, arguments, train_dataset=texts, processing_class=build_tokenizer())
    trainer.train()
    finite(trainer)
    assert int((seen[0]["position_ids"] == 0).sum()) > 1


def test_trl_trains_on_conversations(tmp_path):
    """Through the chat template; the loss is that of answers alone."""
    model, tokenizer = trainable(), build_tokenizer()
    seen = watched(model)
    talk = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    arguments = SFTConfig(str(tmp_path), assistant_only_loss=True, per_device_train_batch_size=2, **SHARED)
    trainer = SFTTrainer(
        model,
        arguments,
        train_dataset=datasets.Dataset.from_list([{"messages": talk}] * 2),
        processing_class=tokenizer,
    )
    trainer.train()
    finite(trainer)
    labels = seen[0]["labels"][0]
    assert tokenizer.decode(labels[labels >= 0]) == "Because.\x03"


def test_trl_prefers(tmp_path):
    """DPO, with a reference model, on conversations."""
    model, tokenizer = trainable(), build_tokenizer()
    row = {
        "prompt": [{"role": "user", "content": "Why?"}],
        "chosen": [{"role": "assistant", "content": "Because."}],
        "rejected": [{"role": "assistant", "content": "No."}],
    }
    before = model.lm_head.weight.detach().clone()
    arguments = DPOConfig(str(tmp_path), per_device_train_batch_size=2, **SHARED)
    trainer = DPOTrainer(
        model,
        ref_model=trainable(),
        args=arguments,
        train_dataset=datasets.Dataset.from_list([row] * 2),
        processing_class=tokenizer,
    )
    trainer.train()
    # The policy is the reference at the first step: the loss is that of a coin.
    assert trainer.state.log_history[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert not torch.equal(model.lm_head.weight, before)


def test_sharding_that_is_asked_for_and_does_not_happen_is_told(monkeypatch):
    """Accelerate leaves CPU processes unsharded; a step in one of several processes says so."""
    model, ids = trainable(), torch.tensor([[1, 5, 6, 7]])
    told = []
    monkeypatch.setattr("modeling_fblt.compatibility_fblt.logger.warning_once", told.append)
    model(ids, labels=ids)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    model(ids, labels=ids)
    assert not told  # one process has nothing to share
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    model.eval()(ids, labels=ids)
    assert not told
    model.train()(ids, labels=ids)
    assert len(told) == 1 and "FSDP" in told[0] and "DDP" in told[0]


def test_trl_rewards(tmp_path):
    """GRPO: completions are drawn by FBLT's own loop, and judged with its likelihoods."""
    model = trainable()
    drawn = []

    def reward(completions, **kwargs):
        drawn.extend(completions)
        return [float(len(set(text))) for text in completions]

    settings = {"num_generations": 2, "max_completion_length": 8, "per_device_train_batch_size": 2, "bf16": False}
    trainer = GRPOTrainer(
        model,
        reward_funcs=reward,
        args=GRPOConfig(str(tmp_path), **settings, **SHARED),
        train_dataset=datasets.Dataset.from_list([{"prompt": "One"}, {"prompt": "two, three"}]),
        processing_class=build_tokenizer(),
    )
    trainer.train()
    finite(trainer)
    assert len(drawn) == 2 and all(drawn)
