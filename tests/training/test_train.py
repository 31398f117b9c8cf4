"""Training runs from a recipe, end to end on a small text, and what they log."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from fblt.training import train
from fblt.training.components import train_patcher
from fblt.training.evaluation.run_metrics import BYTES_BEFORE_ANCHOR, row_anchors
from fblt.training.packing.sequences import collate
from fblt.training.recipe import load_recipe
from fblt.training.run import build_trainer, run

from modeling_fblt import FBLTConfig, FBLTForCausalLM
from modeling_fblt.configuration_fblt import EOS_ID
from modeling_fblt.patching_fblt import document_starts
from tests.cli import succeed
from tests.training.runs import losses, write_instructions, write_recipe

WHOLE_BLOCKS = {"diffusion_t_min": 1 - 1e-6}  # every byte of every block is masked


def history(output: Path) -> list[dict]:
    newest = max(output.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]))
    return json.loads((newest / "trainer_state.json").read_text())["log_history"]


@pytest.mark.slow
def test_the_commands_train_a_patcher_and_then_a_model_that_loads(tmp_path):
    patcher = {
        "output": str(tmp_path / "trained-patcher"),
        "sequence_length": 64,
        "mean_patch_length": 3.0,
        "optimizer": {"name": "adamw", "learning_rate": 1e-2},
        "trainer": {"max_steps": 10, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True},
    }
    recipe = str(write_recipe(tmp_path, "run", patcher=patcher))
    succeed(train_patcher.main, recipe)
    succeed(train.main, recipe, "--max-steps", "2")
    trained = FBLTForCausalLM.from_pretrained(tmp_path / "run/final")
    threshold = json.loads((tmp_path / "trained-patcher/patching.json").read_text())["threshold"]
    assert trained.config.patching_threshold == threshold
    assert list(losses(tmp_path / "run")) == [1, 2]


def test_training_without_a_trained_patcher_says_what_to_run(tmp_path):
    recipe = load_recipe(write_recipe(tmp_path, "early", patcher={"output": str(tmp_path / "none")}))
    with pytest.raises(FileNotFoundError, match="fblt train-patcher"):
        run(recipe)


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


def test_logs_are_those_of_a_step_computed_by_hand(tmp_path):
    """The first step's terms, bits per byte and patch length, from the model and the rows themselves."""
    model = WHOLE_BLOCKS | {"diffusion_loss_weight": 0.5}
    recipe = load_recipe(write_recipe(tmp_path, "run", model, {"max_steps": 1}))
    trainer = build_trainer(recipe)
    batch = next(iter(trainer.get_train_dataloader()))
    expected = trainer.model.train()(**batch)
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    assert logged["next_byte_loss"] == pytest.approx(expected.next_byte_loss.item(), rel=1e-5)
    assert logged["diffusion_loss"] == pytest.approx(expected.diffusion_loss.item(), rel=1e-5)
    assert logged["loss"] == pytest.approx(logged["next_byte_loss"] + 0.5 * logged["diffusion_loss"], rel=1e-5)
    assert logged["bits_per_byte"] == pytest.approx(logged["next_byte_loss"] / math.log(2))
    patches = sum(int(row[:-1].sum()) for row in batch["patch_starts"])
    assert logged["mean_patch_length"] == pytest.approx(batch["input_ids"].numel() / patches)
    assert logged["bytes_per_second"] > 0


@pytest.mark.contract
def test_losses_are_averaged_over_all_target_bytes_of_a_step(tmp_path):
    """Rows with different numbers of targets, in one batch or in two that are accumulated."""
    write_instructions(tmp_path / "prompts")
    for name, batch, accumulated in (("one", 4, 1), ("two", 2, 2)):
        trainer = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulated}
        recipe = write_recipe(tmp_path, name, WHOLE_BLOCKS, {**trainer, "max_steps": 2}, data=str(tmp_path / "prompts"))
        run(load_recipe(recipe))
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    for step in (1, 2):
        for term in ("loss", "next_byte_loss", "diffusion_loss", "mean_patch_length"):
            assert two[step][term] == pytest.approx(one[step][term], rel=1e-5)


@pytest.mark.parametrize("block_size", [4, None])
def test_evaluations_log_bits_per_byte_and_drafts_where_there_are_blocks(tmp_path, block_size):
    trainer = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 1}
    run(load_recipe(write_recipe(tmp_path, "run", {"block_size": block_size}, trainer)))
    found = next(entry for entry in history(tmp_path / "run") if "eval_loss" in entry)
    assert found["eval_bits_per_byte"] == pytest.approx(found["eval_loss"] / math.log(2))
    drafts = {name for name in found if "leading_correct" in name or "masked_accuracy" in name}
    accuracies = {f"eval_masked_accuracy_{offset}" for offset in (1, 2, 3)}
    kinds = {"eval_draft_leading_correct", "eval_blt_s_leading_correct"}
    assert drafts == (accuracies | kinds if block_size else set())
    assert list((tmp_path / "run/runs").glob("*/events.out.tfevents.*"))


@pytest.mark.parametrize("never", ["no", False])
def test_without_evaluation_no_text_is_held_out(tmp_path, never):
    """YAML reads a bare `no` as False."""
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "notes.txt").write_text("Every word of this is to be trained on. " * 40)
    trainer = {"max_steps": 1, "eval_strategy": never}
    recipe = write_recipe(tmp_path, "run", None, trainer, data=str(texts), hold_out=0)
    trainer = build_trainer(load_recipe(recipe))
    assert trainer.eval_dataset is None and len(trainer.train_dataset) > 0
    trainer.train()


def test_anchors_stand_within_one_document_of_a_row():
    generator = np.random.default_rng(0)
    ids = generator.integers(4, 260, (3, 300))
    ids[0, [99, 180]] = ids[2, 5] = EOS_ID
    anchors = row_anchors(Dataset.from_dict({"input_ids": ids}), 1000, 3, 0)
    parts = [part for row in ids for part in np.split(row, np.flatnonzero(row == EOS_ID) + 1)]
    assert len(anchors) == sum(max(len(part) - 4 - BYTES_BEFORE_ANCHOR, 0) for part in parts)
    for anchor in anchors:
        text = np.concatenate([anchor.context, [anchor.carried], anchor.real])
        assert len(anchor.context) >= BYTES_BEFORE_ANCHOR and EOS_ID not in text
    assert row_anchors(Dataset.from_dict({"input_ids": ids[:, :60]}), 10, 3, 0) == []


def test_rows_stay_valid_for_a_run_that_is_started_again(tmp_path):
    recipe = yaml.safe_load(write_recipe(tmp_path, "run").read_text())
    first = build_trainer(recipe)
    made = {folder: folder.stat().st_mtime_ns for folder in (tmp_path / "run/rows").iterdir()}
    second = build_trainer(recipe)
    assert made == {folder: folder.stat().st_mtime_ns for folder in (tmp_path / "run/rows").iterdir()}
    assert (first.train_dataset["input_ids"][:] == second.train_dataset["input_ids"][:]).all()
    recipe["sequence_length"] //= 2
    build_trainer(recipe)
    assert len(list((tmp_path / "run/rows").iterdir())) == 2 * len(made)


def test_collated_rows_with_labels_are_padded_without_loss():
    rows = [
        {"input_ids": torch.arange(4, 4 + n), "labels": torch.arange(4, 4 + n), "patch_starts": torch.ones(n + 1)}
        for n in (2, 5)
    ]
    batch = collate(rows)
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1] * 5]
    assert batch["labels"][0].tolist() == [4, 5, -100, -100, -100]
    assert batch["patch_starts"].tolist() == [[True] * 3 + [False] * 3, [True] * 6]
