"""Training runs from a recipe, end to end on a small text."""

import sys

import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict
from safetensors.torch import load_file

from modeling_fblt import FBLTConfig
from modeling_fblt.patching_fblt import document_starts
from tests.modeling.tiny import tiny_config
from training import train, train_patcher
from training.recipe import load_recipe

TEXT = "the quick brown fox jumps over the lazy dog. " * 12


def recipe(folder, steps: int, output: str) -> str:
    """Writes a recipe for a tiny model on a tiny text, and the text."""
    data = folder / "data"
    if not data.exists():
        rows = {"text": [TEXT, TEXT[5:], TEXT[9:]], "source": ["fox"] * 3}
        DatasetDict({split: Dataset.from_dict(rows) for split in ("train", "validation")}).save_to_disk(str(data))
    config = tiny_config()
    fields = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    parts = {
        name: {field: getattr(getattr(config, name), field) for field in fields}
        for name in ("patcher_config", "encoder_config", "global_config", "decoder_config")
    }
    parts["encoder_config"]["hash_vocab_size"] = 64
    trainer = {"per_device_train_batch_size": 2, "use_cpu": True, "logging_steps": 1, "disable_tqdm": True}
    written = {
        "seed": 0,
        "data": str(data),
        "output": str(folder / output),
        "sequence_length": 64,
        "model": {"block_size": 4, "max_patch_length": 8, **parts},
        "patcher": {
            "output": str(folder / "patcher"),
            "sequence_length": 64,
            "mean_patch_length": 3.0,
            "optimizer": {"name": "adamw", "learning_rate": 1e-2},
            "trainer": {**trainer, "max_steps": 10, "save_strategy": "no"},
        },
        "optimizer": {"name": "muon", "learning_rate": 1e-3},
        "trainer": {**trainer, "max_steps": steps, "save_steps": 2, "lr_scheduler_type": "constant"},
    }
    path = folder / f"{output}.yaml"
    path.write_text(yaml.safe_dump(written))
    return str(path)


def run(module, monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    module.main()


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, monkeypatch):
    run(train_patcher, monkeypatch, recipe(tmp_path, 4, "whole"))
    run(train, monkeypatch, recipe(tmp_path, 4, "whole"))
    run(train, monkeypatch, recipe(tmp_path, 2, "broken"))
    run(train, monkeypatch, recipe(tmp_path, 4, "broken"))
    whole, broken = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("whole", "broken"))
    assert whole.keys() == broken.keys()
    for name, weight in whole.items():
        assert torch.equal(weight, broken[name]), name


def test_a_checkpoint_cut_short_is_passed_over(tmp_path):
    assert train.last_complete_checkpoint(tmp_path) is None
    for step in (9, 10, 11):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if step < 11:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert train.last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_training_without_a_trained_patcher_says_what_to_run(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="train_patcher"):
        run(train, monkeypatch, recipe(tmp_path, 1, "early"))


def test_the_threshold_found_gives_the_wanted_patch_length():
    torch.manual_seed(0)
    entropies = torch.rand(4, 500) * 5
    zero = torch.zeros(4, dtype=torch.long)
    document = document_starts(torch.zeros(4, 500, dtype=torch.bool), zero, zero)
    config = FBLTConfig(max_patch_length=8)
    threshold = train_patcher.find_threshold(entropies, document, 4.0, config)
    assert train_patcher.mean_patch_length(entropies, document, threshold, config) == pytest.approx(4.0, abs=0.02)
    with pytest.raises(ValueError, match="mean_patch_length"):
        train_patcher.find_threshold(entropies, document, 9.0, config)


def test_a_recipe_that_lacks_sections_is_refused_by_their_names(tmp_path):
    (tmp_path / "bad.yaml").write_text("seed: 0\n")
    with pytest.raises(ValueError, match="optimizer"):
        load_recipe(tmp_path / "bad.yaml")
    with pytest.raises(FileNotFoundError, match="nosuch"):
        load_recipe(tmp_path / "nosuch.yaml")
