"""Two processes train as one with the doubled batch does.

Which bytes of a block are masked is random and drawn by each process for itself. To compare, blocks are masked whole:
`diffusion_t_min` next to 1 masks every byte with weight 1, up to 1e-6. All else is what users launch.
"""

import contextlib
import fnmatch
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from fblt.training.recipe import load_recipe
from fblt.training.run import build_trainer, run, training_arguments
from fblt.training.running.sharded import is_sharded, load_sharded_model, load_sharded_optimizer

from modeling_fblt import FBLTConfig, FBLTForCausalLM, FBLTModel
from tests.thorough import THOROUGH, long_run
from tests.training.runs import MODEL, losses, write_instructions, write_recipe

ROOT = Path(__file__).parents[2]
WHOLE_BLOCKS = {"diffusion_t_min": 1 - 1e-6}
TRAINER = {"max_steps": 3, "save_steps": 1, "lr_scheduler_type": "constant"}
# Gradients are compared as the optimizer's state has them after one step: AdamW's first moment, Muon's momentum.
SAME = {"rtol": 1e-5, "atol": 1e-5}


@contextlib.contextmanager
def launched(
    config: str, *recipes: Path, processes: int = 2, environment: dict[str, str] | None = None, restarts: int = 0
) -> Iterator[subprocess.Popen]:
    """Runs recipes one after another in several processes; a failure, once they have ended, shows all they printed.

    Args:
        restarts: how often the launcher starts all processes again after one has failed.
    """
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        f"training/accelerate/{config}.yaml",
    ]
    command += ["--num_processes", str(processes), "--main_process_port", str(free_port())]
    command += ["--max_restarts", str(restarts)] if restarts else []
    command += ["-m", "tests.training.launched", *map(str, recipes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    with tempfile.TemporaryFile("w+") as printed:
        launcher = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=printed, stderr=subprocess.STDOUT)
        try:
            yield launcher
        finally:
            launcher.terminate()  # nothing, where it has ended
            code = launcher.wait()
        printed.seek(0)
        assert code == 0, printed.read()


def launch(config: str, *recipes: Path, **options) -> None:
    """As [`launched`], and waits for the end."""
    with launched(config, *recipes, **options) as launcher:
        launcher.wait()


def free_port() -> int:
    """A free port below those that systems give away by themselves.

    Launchers find a free port, let go of it, and take it seconds later, when any connection on this machine may have
    been given it.
    """
    for port in random.SystemRandom().sample(range(20_000, 30_000), 100):
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("", port))
            return port
    raise OSError("no port is free")


def recipes(folder: Path, name: str, batch: int) -> dict[str, Path]:
    """The same runs for one process or, with half the batch, for two."""
    if not (folder / "prompts").exists():
        write_instructions(folder / "prompts")
    trainer = {**TRAINER, "per_device_train_batch_size": batch}
    adamw, muon = ({"name": optimizer, "learning_rate": 1e-3} for optimizer in ("adamw", "muon"))
    runs = {
        # The frozen patcher is no unused parameter: gradients need no search for such.
        "adamw": {"model": WHOLE_BLOCKS, "optimizer": adamw, "trainer": {"ddp_find_unused_parameters": False}},
        "muon": {"model": {**WHOLE_BLOCKS, "draft_head_config": {"hidden_size": 8}}, "optimizer": muon},
        # Nor are the weights that readers of a single slot do without.
        "single-slot": {
            "model": {**WHOLE_BLOCKS, "cross_attn_k": 1},
            "optimizer": adamw,
            "trainer": {"activation_checkpointing": True, "ddp_find_unused_parameters": False},
        },
        "no-blocks": {"model": {"block_size": None}, "optimizer": adamw},
        # Rows with different numbers of target bytes: losses are averaged over those of both processes.
        "prompts": {"model": WHOLE_BLOCKS, "optimizer": adamw, "data": str(folder / "prompts")},
    }
    if not THOROUGH:  # these two cover both optimizers, a draft head and rows of different lengths; under FSDP2 one
        runs = {run: runs[run] for run in (("muon",) if name == "fsdp" else ("muon", "prompts"))}
    for changes in runs.values():
        changes["trainer"] = trainer | changes.get("trainer", {})
    return {run: write_recipe(folder, f"{name}-{run}", **changes) for run, changes in runs.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Runs of one process."""
    folder = tmp_path_factory.mktemp("distributed")
    for recipe in recipes(folder, "one", 4).values():
        run(load_recipe(recipe))
    return folder


def assert_same_logs(one: Path, two: Path) -> None:
    expected, found = losses(one), losses(two)
    assert expected.keys() == found.keys()
    for step, entry in expected.items():
        # Muon makes its updates in bfloat16, where the order of a sum shows, so only its first step is as exact.
        tolerance = 1e-3 if "muon" in one.name and step > 1 else 1e-5
        assert found[step] == pytest.approx(entry, rel=tolerance), step


def optimizer_state(recipe: Path, checkpoint: Path) -> dict:
    """The optimizer's state in a checkpoint, sharded or not, as one process has it."""
    if not is_sharded(checkpoint):
        return torch.load(checkpoint / "optimizer.pt", weights_only=True)
    trainer = build_trainer(load_recipe(recipe))
    trainer.create_optimizer_and_scheduler(1)
    load_sharded_optimizer(trainer.model, trainer.optimizer, checkpoint)
    return trainer.optimizer.state_dict()


@pytest.mark.slow
def test_ddp_over_two_processes_trains_as_one_process_with_the_doubled_batch(folder):
    runs = recipes(folder, "ddp", 2)
    launch("ddp_cpu", *runs.values())
    for name in runs:
        one, two = folder / f"one-{name}", folder / f"ddp-{name}"
        assert_same_logs(one, two)
        numbers = [torch.load(two / f"checkpoint-1/rng_state_{i}.pth", weights_only=False)["cpu"] for i in range(2)]
        assert not torch.equal(*numbers)  # two processes, whose blocks are corrupted independently
        first, second = (torch.load(run / "checkpoint-1/optimizer.pt", weights_only=True) for run in (one, two))
        torch.testing.assert_close(first, second, **SAME)


def test_fsdp1_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(ValueError, match="fsdp_version"):
        training_arguments(load_recipe(write_recipe(tmp_path, "old")))


def test_the_fsdp_plan_of_the_config_names_modules_of_the_model():
    names = [name for name, _ in FBLTModel(FBLTConfig(**MODEL)).named_modules()]
    for pattern in FBLTConfig.base_model_fsdp_plan:
        assert fnmatch.filter(names, pattern), pattern


@pytest.mark.slow
def test_fsdp2_over_two_processes_trains_as_one_process_and_its_checkpoint_resumes_in_one(folder):
    runs = recipes(folder, "fsdp", 2)
    shorter = []
    for name in sorted(runs.keys() & {"adamw", "muon"}):  # these stop after two steps and go on from there, sharded
        recipe = yaml.safe_load(runs[name].read_text())
        recipe["trainer"]["max_steps"] = 2
        shorter.append(folder / f"shorter-{name}.yaml")
        shorter[-1].write_text(yaml.safe_dump(recipe))
    launch("fsdp2_cpu", *shorter, *runs.values())
    for name, recipe in runs.items():
        one, two = folder / f"one-{name}", folder / f"fsdp-{name}"
        assert_same_logs(one, two)
        assert is_sharded(two / "checkpoint-1")
        expected = optimizer_state(recipe, one / "checkpoint-1")
        torch.testing.assert_close(optimizer_state(recipe, two / "checkpoint-1"), expected, **SAME)
        trainer = build_trainer(load_recipe(recipe))
        load_sharded_model(trainer.model, two / "checkpoint-3")
        final = FBLTForCausalLM.from_pretrained(two / "final")
        assert final.config.architectures == ["FBLTForCausalLM"]
        torch.testing.assert_close(final.state_dict(), trainer.model.state_dict(), rtol=0, atol=0)

        longer = {**TRAINER, "max_steps": 5, "per_device_train_batch_size": 4}
        for output in (one, two):
            continued = load_recipe(recipe)
            continued["trainer"] |= longer
            continued["output"] = str(output)
            run(continued)
        assert_same_logs(one, two)


@long_run
@pytest.mark.slow
@pytest.mark.parametrize("config", ["ddp_cpu", "fsdp2_cpu", "hybrid_cpu"])
def test_four_processes_train_as_one_process_with_the_joint_batch(tmp_path, config):
    """With gradients accumulated, and rows whose numbers of target bytes differ."""
    write_instructions(tmp_path / "prompts")
    optimizer = {"name": "adamw", "learning_rate": 1e-3}
    trainer = {**TRAINER, "max_steps": 2, "gradient_accumulation_steps": 2}
    one, four = (
        write_recipe(
            tmp_path,
            name,
            WHOLE_BLOCKS,
            {**trainer, "per_device_train_batch_size": batch},
            optimizer=optimizer,
            data=str(tmp_path / "prompts"),
        )
        for name, batch in (("one", 4), ("four", 1))
    )
    run(load_recipe(one))
    launch(config, four, processes=4)
    assert_same_logs(tmp_path / "one", tmp_path / "four")
    expected = optimizer_state(one, tmp_path / "one/checkpoint-1")
    torch.testing.assert_close(optimizer_state(four, tmp_path / "four/checkpoint-1"), expected, **SAME)


@long_run
@pytest.mark.slow
def test_four_sharded_processes_update_by_muon_as_one_does_and_fill_up_an_uneven_last_batch(tmp_path):
    """Muon in float32, on an epoch of ten rows: in its third step two processes have rows of the first one."""
    write_instructions(tmp_path / "prompts")
    file = tmp_path / "prompts/train.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:10]))
    one, four = (
        write_recipe(
            tmp_path,
            name,
            {**WHOLE_BLOCKS, "draft_head_config": {"hidden_size": 8}},
            {**TRAINER, "train_sampling_strategy": "sequential", "per_device_train_batch_size": batch},
            optimizer={"name": "muon", "muon_float32": True, "learning_rate": 1e-3},
            data=str(tmp_path / "prompts"),
        )
        for name, batch in (("one", 4), ("four", 1))
    )
    trainer = build_trainer(load_recipe(one))
    assert len(trainer.train_dataset) == 10
    trainer.train_dataset = trainer.train_dataset.select([*range(10), 0, 1])
    trainer.train()
    launch("fsdp2_cpu", four, processes=4)
    expected, found = losses(tmp_path / "one"), losses(tmp_path / "four")
    assert list(expected) == [1, 2, 3]
    for step, entry in expected.items():
        # An update divides by its own size, which enlarges what rounding did to small ones.
        assert found[step] == pytest.approx(entry, rel=1e-4), step


def drafts(run: Path) -> dict[str, float]:
    """What the evaluation of a run of one step found of drafts."""
    history = json.loads((run / "checkpoint-1/trainer_state.json").read_text())["log_history"]
    (entry,) = (entry for entry in history if "eval_loss" in entry)
    return {key: value for key, value in entry.items() if "leading_correct" in key or "masked_accuracy" in key}


@long_run
@pytest.mark.slow
def test_evaluations_under_fsdp2_make_the_drafts_of_one_process(tmp_path):
    model = {**WHOLE_BLOCKS, "draft_head_config": {"hidden_size": 8}}
    trainer = {**TRAINER, "max_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    optimizer = {"name": "adamw", "learning_rate": 1e-3}
    runs = {
        name: write_recipe(
            tmp_path, name, model, {**trainer, "per_device_train_batch_size": batch}, optimizer=optimizer
        )
        for name, batch in (("one", 4), ("two", 2))
    }
    run(load_recipe(runs["one"]))
    launch("fsdp2_cpu", runs["two"])
    one, two = drafts(tmp_path / "one"), drafts(tmp_path / "two")
    assert "eval_draft_head_leading_correct" in one
    assert two == pytest.approx(one)
