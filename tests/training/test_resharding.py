"""A run that goes on with another number of processes than wrote its checkpoint."""

import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from fblt.training.recipe import load_recipe
from fblt.training.run import build_trainer, run
from fblt.training.running.sharded import is_sharded, load_sharded_model
from safetensors.torch import load_file

from fblt.checksums import write_checksums
from tests.thorough import THOROUGH, cases, long_run
from tests.training.forked import fork
from tests.training.runs import losses, write_recipe, write_stream
from tests.training.test_distributed import TRAINER, WHOLE_BLOCKS, assert_same_logs, optimizer_state

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")]
MANY = cases(2, 4)
SETTINGS = {
    "adamw": {"name": "adamw", "learning_rate": 1e-3},
    "muon": {"name": "muon", "learning_rate": 1e-3, "muon_float32": True},
}


def train(*recipes: Path) -> None:
    for recipe in recipes:
        run(load_recipe(recipe))


def resave(checkpoint: Path, recipe: Path) -> None:
    """Goes on from a checkpoint, with no step left to make, and writes it anew into the recipe's output."""
    trainer = build_trainer(load_recipe(recipe))
    trainer.train(resume_from_checkpoint=str(checkpoint))
    trainer._save_checkpoint(trainer.model_wrapped, None)


def weights(recipe: Path, checkpoint: Path) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint, sharded or not."""
    if not is_sharded(checkpoint):
        return load_file(checkpoint / "model.safetensors")
    trainer = build_trainer(load_recipe(recipe))
    load_sharded_model(trainer.model, checkpoint)
    return trainer.model.state_dict()


@long_run
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_checkpoint_that_went_through_four_two_one_and_four_processes_is_what_it_was(tmp_path, optimizer):
    """Bit for bit: weights, optimizer state, and the steps that four processes make from there.

    In the quick tests two processes are in the place of four, and make no steps. Random numbers of several processes
    cannot go through one, so they are put back for these.
    """
    sizes = {"first": MANY, "two": 2, "one": 1, "last": MANY}
    recipes = {
        name: write_recipe(
            tmp_path,
            name,
            WHOLE_BLOCKS,
            {**TRAINER, "max_steps": 2, "save_steps": 2, "per_device_train_batch_size": 4 // processes},
            optimizer=SETTINGS[optimizer],
        )
        for name, processes in sizes.items()
    }
    fork("fsdp2_cpu", MANY, train, recipes["first"])
    checkpoint = tmp_path / "first/checkpoint-2"
    expected = weights(recipes["one"], checkpoint), optimizer_state(recipes["one"], checkpoint)
    for name in ("two", "one", "last") if MANY > 2 else ("one", "last"):
        if sizes[name] == 1:
            resave(checkpoint, recipes[name])
        else:
            fork("fsdp2_cpu", sizes[name], resave, checkpoint, recipes[name])
        checkpoint = tmp_path / name / "checkpoint-2"
        assert is_sharded(checkpoint) == (sizes[name] > 1)
        found = weights(recipes["one"], checkpoint), optimizer_state(recipes["one"], checkpoint)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
    if not THOROUGH:
        return
    for file in (tmp_path / "first/checkpoint-2").glob("rng_state*.pth"):
        shutil.copy(file, checkpoint)
    write_checksums(checkpoint)
    longer = []
    for name in ("first", "last"):
        recipe = yaml.safe_load(recipes[name].read_text())
        recipe["trainer"]["max_steps"] = 4
        longer.append(tmp_path / f"longer-{name}.yaml")
        longer[-1].write_text(yaml.safe_dump(recipe))
    fork("fsdp2_cpu", MANY, train, *longer)
    first, last = (weights(recipes["one"], tmp_path / name / "checkpoint-4") for name in ("first", "last"))
    torch.testing.assert_close(first, last, rtol=0, atol=0)
    assert losses(tmp_path / "first") == losses(tmp_path / "last")


@long_run
@pytest.mark.parametrize("config", ["ddp_cpu", "fsdp2_cpu"])
def test_two_processes_that_stream_train_as_one_does_which_goes_on_where_they_stopped(tmp_path, config):
    data = write_stream(tmp_path / "texts")
    one, two, back = (
        write_recipe(
            tmp_path,
            name,
            WHOLE_BLOCKS,
            {**TRAINER, "per_device_train_batch_size": batch},
            optimizer=SETTINGS["adamw"],
            **data,
        )
        for name, batch in (("one", 4), ("two", 2), ("back", 4))
    )
    run(load_recipe(one))
    fork(config, 2, train, two)
    assert_same_logs(tmp_path / "one", tmp_path / "two")
    shutil.copytree(tmp_path / "two/checkpoint-1", tmp_path / "back/checkpoint-1")
    run(load_recipe(back))
    assert_same_logs(tmp_path / "one", tmp_path / "back")
