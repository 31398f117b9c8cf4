"""Tiny training runs for the tests: data, a random patcher and a recipe, all in one folder."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from datasets import Dataset, DatasetDict
from fblt.training.run import build_trainer, run
from fblt.training.running.checkpoints import newest_checkpoint
from fblt.training.train import main
from safetensors.torch import save_file
from transformers import TrainerCallback

from modeling_fblt import FBLTConfig, FBLTForCausalLM
from modeling_fblt.configuration_fblt import BOS_ID, BYTE_OFFSET, EOS_ID

NETWORK = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
MODEL = {
    "block_size": 4,
    "max_patch_length": 6,
    "patcher_config": {**NETWORK, "sliding_window": 16},
    "encoder_config": {**NETWORK, "sliding_window": 12, "hash_vocab_size": 31},
    "global_config": NETWORK,
    "decoder_config": {**NETWORK, "sliding_window": 16},
}
TRAINER = {
    "per_device_train_batch_size": 2,
    "per_device_eval_batch_size": 4,
    "max_steps": 4,
    "logging_steps": 1,
    "save_steps": 2,
    "learning_rate": 1e-3,
    "use_cpu": True,
    "disable_tqdm": True,
}
LENGTH = 96


def write_data(folder: Path, rows: int = 10) -> None:
    """Documents of words in random order, enough for `rows` training rows."""
    generator = torch.Generator().manual_seed(0)
    words = ("the", "patch", "of\nbytes", "écrit", "\treturn", "a", "block", "and so on.", "def f(x):")

    def texts(size: int) -> list[str]:
        drawn = torch.randint(len(words), (size,), generator=generator).tolist()
        return [" ".join(words[i] for i in drawn[first : first + 40]) for first in range(0, size, 40)]

    splits = {"train": texts(rows * LENGTH // 5), "validation": texts(200)}
    DatasetDict(
        {name: Dataset.from_dict({"text": found, "source": ["words"] * len(found)}) for name, found in splits.items()}
    ).save_to_disk(str(folder))


def write_stream(folder: Path) -> dict:
    """Texts in four files, and what a recipe says to stream them."""
    folder.mkdir()
    for shard in range(4):
        rows = [json.dumps({"text": f"{shard}/{row}: " + "the patch of bytes " * (row % 9)}) for row in range(9)]
        (folder / f"{shard}.jsonl").write_text("\n".join(rows))
    return {"stream": f"{folder}/*.jsonl", "stream_parts": 2}


def write_instructions(folder: Path) -> None:
    """Prompts and completions of different lengths, as JSONL files."""
    folder.mkdir()
    for split in ("train", "validation"):
        rows = [{"prompt": f"{i} + {j} = é", "completion": str(i + j) * (1 + i)} for i in range(3) for j in range(4)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_lines(folder: Path) -> None:
    """Lines of different lengths to restore."""
    lines = ["Žluťoučký kůň. " * words + "Ó!" for words in range(3)]
    splits = {"train": lines * 5, "validation": lines}
    DatasetDict({name: Dataset.from_dict({"text": found}) for name, found in splits.items()}).save_to_disk(str(folder))


def write_patcher(folder: Path, model: dict) -> None:
    """A random patcher, as `fblt train-patcher` leaves it, with a threshold amid its entropies."""
    torch.manual_seed(0)
    lm = FBLTForCausalLM(FBLTConfig(**model))
    entropies = lm.patch(torch.randint(4, 260, (4, 64))).entropies
    folder.mkdir(parents=True)
    save_file(lm.model.patcher.state_dict(), folder / "model.safetensors")
    (folder / "patching.json").write_text(json.dumps({"threshold": float(entropies.quantile(0.75))}))


def write_recipe(folder: Path, name: str, model: dict | None = None, trainer: dict | None = None, **changes) -> Path:
    """A recipe whose run is `<folder>/<name>`, with the data and the patcher it needs."""
    recipe = {
        "seed": 0,
        "data": str(folder / "data"),
        "output": str(folder / name),
        "sequence_length": LENGTH,
        "evaluation_drafts": 16,
        "model": MODEL | (model or {}),
        "patcher": {"output": str(folder / "patcher")},
        "optimizer": {"name": "muon", "learning_rate": 1e-3},
        "trainer": TRAINER | (trainer or {}),
        **changes,
    }
    if not (folder / "data").exists():
        write_data(folder / "data")
    if not (folder / "patcher").exists():
        write_patcher(folder / "patcher", recipe["model"])
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def losses(run: Path) -> dict[int, dict[str, float]]:
    """What the newest checkpoint of a run logged while training, by step; times left out."""
    newest = max(run.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return {
        entry["step"]: {name: value for name, value in entry.items() if name != "bytes_per_second"}
        for entry in history
        if "loss" in entry
    }


def instruction_rows(examples: list[dict], length: int, model: FBLTForCausalLM) -> list[dict[str, torch.Tensor]]:
    """Rows of instructions by the plainest way: example by example, patched alone."""
    rows = []
    for example in examples:
        ids = torch.tensor([BOS_ID, *(byte + BYTE_OFFSET for byte in "".join(example.values()).encode()), EOS_ID])
        labels = ids.clone()
        labels[: 1 + len(example["prompt"].encode())] = -100
        ids, labels = ids[:length], labels[:length]
        rows.append({"input_ids": ids, "labels": labels, "patch_starts": model.patch(ids[None]).patch_starts[0]})
    return rows


def train_by_command(recipe: str) -> None:
    """Trains as `fblt train RECIPE` does. Unlike a command, a function can be handed to another process."""
    main([recipe])


class _Stop(TrainerCallback):
    """Ends a run after a step, as a kill after its checkpoint does."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def run_until(recipe: dict, step: int) -> None:
    """Goes on with a recipe's run, and leaves it after a step at which it saves."""
    trainer = build_trainer(recipe)
    trainer.add_callback(_Stop(step))
    newest = newest_checkpoint(trainer.output)
    trainer.train(resume_from_checkpoint=None if newest is None else str(newest))


def run_in_parts(recipe: dict, stops: Sequence[int]) -> None:
    """Runs a recipe that saves every step, stopped after each step of `stops` and started again."""
    for last in stops:
        run_until(recipe, last)
    run(recipe)
