"""A process of a launch is killed at random: the launcher starts all again, and the run ends as if nothing had been.

A long local run: FBLT_THOROUGH=1 FBLT_KILLS=20 python -m pytest tests/training/test_launched_kills.py -s
"""

import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest
from fblt.training.running.checkpoints import UNFINISHED

from tests.thorough import long_run
from tests.training.runs import losses, write_recipe
from tests.training.test_distributed import launched

KILLS = int(os.environ.get("FBLT_KILLS", "1"))
PROCESSES = 2
TRAINER = {"max_steps": 8, "save_steps": 1, "save_total_limit": 3, "lr_scheduler_type": "cosine"}


def ranks(launcher: int) -> list[psutil.Process]:
    """The processes that a launcher started, once all of them are there."""
    try:
        found = psutil.Process(launcher).children(recursive=True)
        return [process for process in found if "tests.training.launched" in process.cmdline()]
    except psutil.NoSuchProcess:  # one that ended while it was asked
        return []


def kill_one(launcher, output: Path, chance: random.Random) -> str | None:
    """Kills one process after the next checkpoint has begun to be written; says when, None if the run ended before."""
    before = {path.name for path in output.glob("checkpoint-*")}
    killed_while_starting = chance.random() < 0.2
    while launcher.poll() is None:
        begun = (output / UNFINISHED).is_dir() or {path.name for path in output.glob("checkpoint-*")} - before
        found = ranks(launcher.pid)
        if len(found) == PROCESSES and (begun or killed_while_starting):
            time.sleep(chance.uniform(0, 2 if killed_while_starting else 0.3))
            writing = (output / UNFINISHED).is_dir()
            try:
                chance.choice(found).send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                return None
            return "starting" if killed_while_starting else "writing" if writing else "training"
        time.sleep(0.005)
    return None


@long_run
@pytest.mark.slow
@pytest.mark.parametrize("config", ["fsdp2_cpu", "ddp_cpu"])
def test_a_launch_that_loses_processes_ends_bit_for_bit_as_an_undisturbed_one(tmp_path, config):
    optimizer = {"name": "adamw", "learning_rate": 1e-3}
    whole, killed = (write_recipe(tmp_path, name, trainer=TRAINER, optimizer=optimizer) for name in ("whole", "killed"))
    with launched(config, whole, processes=PROCESSES) as launcher:
        launcher.wait()
    output, chance, moments = tmp_path / "killed", random.Random(0), []
    while len(moments) < KILLS:
        with launched(config, killed, processes=PROCESSES, restarts=KILLS) as launcher:
            while len(moments) < KILLS and (moment := kill_one(launcher, output, chance)) is not None:
                moments.append(moment)
                gone = time.monotonic() + 60
                while len(ranks(launcher.pid)) == PROCESSES and time.monotonic() < gone:
                    time.sleep(0.05)  # until the launcher has noticed
            launcher.wait()
        assert (output / "final/model.safetensors").read_bytes() == (
            tmp_path / "whole/final/model.safetensors"
        ).read_bytes()
        assert losses(output) == losses(tmp_path / "whole")
        if len(moments) < KILLS:  # the run had ended: another one
            killed = write_recipe(tmp_path, f"killed-{len(moments)}", trainer=TRAINER, optimizer=optimizer)
            output = tmp_path / f"killed-{len(moments)}"
    print(f"\n{config}: {len(moments)} kills: { ({m: moments.count(m) for m in sorted(set(moments))}) }", flush=True)
