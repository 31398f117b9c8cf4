"""What must not go unnoticed while training: numbers that are none, and checkpoints that are not what was written."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from fblt.training.components.train_patcher import train_patcher
from fblt.training.publishing.export import export
from fblt.training.recipe import load_recipe
from fblt.training.run import build_trainer, run
from fblt.training.running.checkpoints import DAMAGED, newest_checkpoint, set_damaged_aside
from fblt.training.running.finite import non_finite_weight
from transformers import TrainerCallback

from fblt.checksums import CHECKSUMS
from modeling_fblt import FBLTForCausalLM
from tests.training.runs import losses, write_recipe

ADAMW = {"name": "adamw", "learning_rate": 1e30}
EVERY_STEP = {"save_steps": 1, "max_steps": 4, "lr_scheduler_type": "constant"}


def checkpoints(output: Path) -> list[str]:
    return sorted(folder.name for folder in output.glob("checkpoint-*"))


# --- numbers that are none ---


def test_training_stops_at_a_loss_that_is_not_finite_and_keeps_the_last_finite_checkpoint(tmp_path):
    trainer = {**EVERY_STEP, "logging_steps": 100, "save_total_limit": 1}
    recipe = write_recipe(tmp_path, "run", trainer=trainer, optimizer=ADAMW)
    with pytest.raises(ValueError, match=r"the loss of step \d is not finite.*learning_rate") as caught:
        run(load_recipe(recipe))
    (newest,) = checkpoints(tmp_path / "run")
    assert f"step {int(newest.rpartition('-')[2]) + 1} " in str(caught.value)
    assert non_finite_weight(FBLTForCausalLM.from_pretrained(tmp_path / "run" / newest)) is None
    assert not (tmp_path / "run/final").exists()


class Spoils(TrainerCallback):
    """Leaves a weight that is no number after a step whose loss was one."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        model.lm_head.weight.data[7, 3] = float("inf")


def test_weights_that_a_step_of_finite_loss_spoiled_are_not_saved(tmp_path):
    trainer = build_trainer(load_recipe(write_recipe(tmp_path, "run", trainer={**EVERY_STEP, "max_steps": 1})))
    trainer.add_callback(Spoils())
    with pytest.raises(ValueError, match=r"after step 1, lm_head.weight is not finite"):
        trainer.train()
    with pytest.raises(ValueError, match=r"after step 1, lm_head.weight is not finite"):
        trainer.save_final()
    assert checkpoints(tmp_path / "run") == [] and not (tmp_path / "run/final").exists()


def test_a_patcher_that_is_no_number_is_not_saved(tmp_path):
    settings = yaml.safe_load(write_recipe(tmp_path, "run").read_text())
    settings["patcher"] = {
        "output": str(tmp_path / "new"),
        "sequence_length": 64,
        "mean_patch_length": 3.0,
        "optimizer": ADAMW,
        "trainer": {"max_steps": 3, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True},
    }
    with pytest.raises(ValueError, match=r"the loss of step \d is not finite"):
        train_patcher(settings, "recipe")
    assert not (tmp_path / "new/patching.json").exists()


# --- checkpoints that are not what was written ---


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A finished run of four steps, with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("damage")
    run(load_recipe(write_recipe(folder, "whole", trainer=EVERY_STEP)))
    return folder


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


SPOILED = {
    "a bit of the weights": lambda folder: flip(folder / "model.safetensors"),
    "a bit of the optimizer": lambda folder: flip(folder / "optimizer.pt"),
    "a bit of the sums": lambda folder: flip(folder / "log_sums_0.pt"),
    "no optimizer": lambda folder: (folder / "optimizer.pt").unlink(),
    "no schedule": lambda folder: (folder / "scheduler.pt").unlink(),
    "no random numbers": lambda folder: (folder / "rng_state.pth").unlink(),
    "weights cut short": lambda folder: (folder / "model.safetensors").write_bytes(b"short"),
    "a state cut short": lambda folder: (folder / "trainer_state.json").write_text('{"epoch": 0.'),
    "checksums cut short": lambda folder: (folder / CHECKSUMS).write_text('{"model'),
    "checksums of nothing": lambda folder: (folder / CHECKSUMS).write_text('{"a": 3}'),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_damaged_checkpoint_is_set_aside_for_the_newest_whole_one(whole, tmp_path, caplog, how):
    shutil.copytree(whole / "whole", tmp_path / "run")
    SPOILED[how](tmp_path / "run/checkpoint-4")
    set_damaged_aside(tmp_path / "run")
    assert newest_checkpoint(tmp_path / "run").name == "checkpoint-3"
    assert [folder.name for folder in (tmp_path / "run" / DAMAGED).iterdir()] == ["checkpoint-4"]
    assert "checkpoint-4" in caplog.text and f"goes on from {tmp_path / 'run/checkpoint-3'}" in caplog.text


def test_a_run_goes_on_from_there_as_if_nothing_had_happened(whole, tmp_path, caplog):
    shutil.copytree(whole / "whole", tmp_path / "run")
    for step in (3, 4):
        flip(tmp_path / f"run/checkpoint-{step}/model.safetensors")
    recipe = load_recipe(whole / "whole.yaml")
    recipe["output"] = str(tmp_path / "run")
    run(recipe)
    assert len(caplog.records) == 2 and checkpoints(tmp_path / "run") == checkpoints(whole / "whole")
    assert losses(tmp_path / "run") == losses(whole / "whole")
    finals = [(folder / "final/model.safetensors").read_bytes() for folder in (tmp_path / "run", whole / "whole")]
    assert finals[0] == finals[1]


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew_by_itself(whole, tmp_path):
    shutil.copytree(whole / "whole", tmp_path / "run")
    for folder in (tmp_path / "run").glob("checkpoint-*"):
        flip(folder / "model.safetensors")
    with pytest.raises(ValueError, match="none is whole: .*checkpoint-4/model.safetensors"):
        set_damaged_aside(tmp_path / "run")
    assert len(checkpoints(tmp_path / "run")) == 4


def test_a_checkpoint_of_an_earlier_version_has_no_checksums_and_is_whole(whole, tmp_path, caplog):
    shutil.copytree(whole / "whole", tmp_path / "run")
    for folder in (tmp_path / "run").glob("checkpoint-*"):
        (folder / CHECKSUMS).unlink()
    set_damaged_aside(tmp_path / "run")
    assert not caplog.text and newest_checkpoint(tmp_path / "run").name == "checkpoint-4"


def test_checkpoints_without_an_optimizer_are_refused_by_the_recipe(tmp_path):
    recipe = write_recipe(tmp_path, "run", trainer={"save_only_model": True})
    with pytest.raises(ValueError, match="save_only_model"):
        load_recipe(recipe)


def test_a_damaged_checkpoint_is_neither_exported_nor_trained_on(whole, tmp_path):
    shutil.copytree(whole / "whole/checkpoint-4", tmp_path / "checkpoint-4")
    flip(tmp_path / "checkpoint-4/model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors: is damaged"):
        export(tmp_path / "checkpoint-4", tmp_path / "exported", 20)
    with pytest.raises(ValueError, match="model.safetensors: is damaged"):
        run(load_recipe(write_recipe(tmp_path, "run")), init_from=str(tmp_path / "checkpoint-4"))
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize("name", ["/etc/passwd", "../whole.yaml"])
def test_checksums_name_files_of_their_folder_alone(whole, tmp_path, name):
    shutil.copytree(whole / "whole/checkpoint-4", tmp_path / "checkpoint-4")
    content = {name: {"bytes": 1, "sha256": "00"}}
    (tmp_path / "checkpoint-4" / CHECKSUMS).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="it is no list of files"):
        export(tmp_path / "checkpoint-4", tmp_path / "exported", 20)
