"""A run that was killed, whenever that was, goes on as if nothing had happened."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fblt.training.recipe import load_recipe
from fblt.training.run import run
from fblt.training.running.checkpoints import UNFINISHED, clean, newest_checkpoint, rotate

from fblt.locks import alone_in
from tests.thorough import long_run
from tests.training.runs import losses, train_by_command, write_recipe, write_stream

# A long local run: FBLT_KILLS=100 python -m pytest tests/training/test_resume.py -k killed -s
KILLS = int(os.environ.get("FBLT_KILLS", "2"))
KILLS_PER_RUN = 10


@pytest.fixture(scope="module")
def context():
    """Starts real processes that have imported what they need already, computing with one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        found = multiprocessing.get_context("forkserver")
        found.set_forkserver_preload(["fblt.training.train"])
        yield found


def start(context, recipe: Path):
    process = context.Process(target=train_by_command, args=(str(recipe),))
    process.start()
    return process


def finish(context, recipe: Path) -> float:
    """Runs a recipe to its end; returns the seconds it took."""
    began = time.monotonic()
    process = start(context, recipe)
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - began


def unfinished(output: Path) -> bool:
    """Whether a checkpoint is being written right now."""
    try:
        return any((output / UNFINISHED).iterdir())
    except FileNotFoundError:  # not there yet, or gone while it was read
        return False


def kill_somewhere(process, output: Path, seconds: float, chance: random.Random) -> str | None:
    """Kills a process, half of the time while it writes a checkpoint; says when, None if it ended before."""
    if chance.random() < 0.5:
        for _ in range(chance.randrange(1, 4)):  # the first checkpoint that it writes, or the second, ...
            while process.is_alive() and not unfinished(output):
                time.sleep(0.0005)
            time.sleep(chance.uniform(0, 0.1))
    else:
        process.join(chance.uniform(0, seconds))
    process.kill()
    process.join()
    if process.exitcode == 0:
        return None
    if unfinished(output):
        return "writing"
    return "training" if any(output.glob("checkpoint-*")) else "starting"


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, pytest.param(True, marks=long_run)])
def test_a_killed_run_ends_bit_for_bit_as_an_uninterrupted_one(context, tmp_path, streamed):
    data = write_stream(tmp_path / "texts") if streamed else {}
    trainer = {
        "max_steps": 9,  # more than two epochs
        "gradient_accumulation_steps": 2,
        "save_steps": 1,
        "save_total_limit": 2,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "bf16": True,
    }
    whole = tmp_path / "whole"
    seconds = finish(context, write_recipe(tmp_path, "whole", trainer=trainer, **data))
    chance, moments = random.Random(0), []
    while len(moments) < KILLS:
        output = tmp_path / f"killed-{len(moments)}"
        recipe = write_recipe(tmp_path, output.name, trainer=trainer, **data)
        for _ in range(min(KILLS_PER_RUN, KILLS - len(moments))):
            moment = kill_somewhere(start(context, recipe), output, seconds, chance)
            if moment is None:
                break
            moments.append(moment)
        finish(context, recipe)
        assert losses(output) == losses(whole)
        for file in ("final/model.safetensors", "checkpoint-9/model.safetensors"):
            assert (output / file).read_bytes() == (whole / file).read_bytes()
        torch.testing.assert_close(
            torch.load(output / "checkpoint-9/optimizer.pt", weights_only=True),
            torch.load(whole / "checkpoint-9/optimizer.pt", weights_only=True),
            rtol=0,
            atol=0,
        )
        assert not (output / UNFINISHED).exists()
        counts = {moment: moments.count(moment) for moment in sorted(set(moments))}
        print(f"\ntrain: {len(moments)} kills, no difference: {json.dumps(counts)}", flush=True)


def test_a_run_that_streams_its_texts_goes_on_with_the_row_that_follows(tmp_path):
    data = write_stream(tmp_path / "texts")
    trainer = {"gradient_accumulation_steps": 2, "save_steps": 1, "lr_scheduler_type": "constant"}
    run(load_recipe(write_recipe(tmp_path, "whole", trainer={**trainer, "max_steps": 4}, **data)))
    shutil.copytree(tmp_path / "whole/checkpoint-1", tmp_path / "broken/checkpoint-1")
    run(load_recipe(write_recipe(tmp_path, "broken", trainer={**trainer, "max_steps": 4}, **data)))
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    places = [json.loads((tmp_path / name / "checkpoint-4/stream_0.json").read_text()) for name in ("whole", "broken")]
    assert places[0] == places[1]
    assert [place["rows"] for place in places[0]["places"].values()] == [8, 8]  # four steps of two by two rows


def test_logs_of_a_resumed_run_count_the_steps_before_the_interruption(tmp_path):
    trainer = {"logging_steps": 3, "save_steps": 2, "lr_scheduler_type": "constant"}
    run(load_recipe(write_recipe(tmp_path, "whole", trainer={**trainer, "max_steps": 6})))
    for steps in (2, 6):
        run(load_recipe(write_recipe(tmp_path, "broken", trainer={**trainer, "max_steps": steps})))
    assert list(losses(tmp_path / "broken")) == [3, 6]
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")


def test_a_finished_run_started_again_trains_no_further(tmp_path):
    recipe = load_recipe(write_recipe(tmp_path, "done", trainer={"max_steps": 2, "save_steps": 1}))
    run(recipe)
    before = (tmp_path / "done/final/model.safetensors").read_bytes()
    run(recipe)
    assert newest_checkpoint(tmp_path / "done").name == "checkpoint-2"
    assert (tmp_path / "done/final/model.safetensors").read_bytes() == before


@pytest.mark.slow
def test_a_second_process_in_the_same_output_is_refused(context, tmp_path):
    recipe = write_recipe(tmp_path, "taken")
    with alone_in(tmp_path / "taken"):
        process = start(context, recipe)
        process.join()
    assert process.exitcode == 1
    assert not (tmp_path / "taken/rows").exists()


def test_evaluations_change_nothing_in_training(tmp_path):
    run(load_recipe(write_recipe(tmp_path, "without")))
    run(load_recipe(write_recipe(tmp_path, "with", trainer={"eval_strategy": "steps", "eval_steps": 1})))
    assert losses(tmp_path / "with") == losses(tmp_path / "without")


def test_what_a_killed_process_was_writing_is_deleted(tmp_path):
    for name in ("checkpoint-9", f"{UNFINISHED}/checkpoint-10"):
        (tmp_path / name).mkdir(parents=True)
    clean(tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["checkpoint-9"]


@pytest.mark.parametrize(
    ("limit", "best", "kept"), [(None, None, [1, 2, 3, 10]), (2, None, [3, 10]), (2, 1, [1, 10]), (1, 2, [2, 10])]
)
def test_rotation_keeps_the_newest_checkpoints_and_the_best(tmp_path, limit, best, kept):
    for step in (1, 2, 3, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    rotate(tmp_path, limit, None if best is None else str(tmp_path / f"checkpoint-{best}"))
    assert sorted(int(folder.name.rpartition("-")[2]) for folder in tmp_path.glob("checkpoint-*")) == kept


def test_the_best_checkpoint_is_recorded_where_it_stays(tmp_path):
    trainer = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "metric_for_best_model": "eval_loss"}
    run(load_recipe(write_recipe(tmp_path, "best", trainer={**trainer, "max_steps": 2})))
    state = json.loads((newest_checkpoint(tmp_path / "best") / "trainer_state.json").read_text())
    assert Path(state["best_model_checkpoint"]).parent == tmp_path / "best"
    assert Path(state["best_model_checkpoint"]).is_dir()


LEFT_BEHIND = """
import os, sys, time
from pathlib import Path
from fblt.locks import alone_in

with alone_in(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:  # as a worker that loads data outlives a killed run for a while
        print(os.getpid(), flush=True)  # by the child: a fork that has not begun to run holds the lock still
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_killed_process_frees_its_folder_even_if_a_forked_child_goes_on(tmp_path):
    command = [sys.executable, "-c", LEFT_BEHIND, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as holder:
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(ValueError, match="Another process is writing"), alone_in(tmp_path / "run"):
                pass
            holder.kill()
            holder.wait()
            os.kill(child, 0)  # it is still there
            with alone_in(tmp_path / "run"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_folder_is_free_again_after_an_error(tmp_path):
    with pytest.raises(KeyError), alone_in(tmp_path):
        raise KeyError
    with alone_in(tmp_path):
        pass
