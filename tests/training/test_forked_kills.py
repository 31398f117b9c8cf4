"""One of several processes is killed while rows are packed or a checkpoint is written, and all are begun again.

As in `test_launched_kills`, but for the launcher, in whose place this test begins them again, in a tenth of its time. A
long local run: FBLT_THOROUGH=1 FBLT_KILLS=10 python -m pytest tests/training/test_forked_kills.py -s
"""

import os
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from fblt.training.running.checkpoints import UNFINISHED

from tests.thorough import long_run
from tests.training.forked import end, fork, start
from tests.training.runs import losses, write_data, write_recipe
from tests.training.test_resharding import train

KILLS = int(os.environ.get("FBLT_KILLS", "1"))
PROCESSES = 2
MOMENTS = {"packing": "rows/.*-partial", "writing": f"{UNFINISHED}/checkpoint-*"}


def kill_one(started: list[BaseProcess], output: Path, moment: str, chance: random.Random) -> bool:
    """Kills one process, any of them, at such a moment; False if there was none until they ended."""
    passed, skipped = set(), chance.randrange(3) if moment == "writing" else 0  # the first checkpoint, or a later one
    while all(process.is_alive() for process in started):
        passed |= {path.name for path in output.glob(MOMENTS[moment])}
        if len(passed) > skipped:
            time.sleep(chance.uniform(0, 0.1))
            there = any(output.glob(MOMENTS[moment]))
            chance.choice(started).kill()
            return there
        time.sleep(0.001)
    return False


@long_run
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize(("config", "moment"), [("fsdp2_cpu", "writing"), ("ddp_cpu", "packing")])
def test_processes_killed_and_begun_again_have_the_rows_and_weights_of_undisturbed_ones(tmp_path, config, moment):
    trainer = {"max_steps": 4, "save_steps": 1, "save_total_limit": 3, "lr_scheduler_type": "cosine"}
    settings = {"trainer": trainer, "optimizer": {"name": "adamw", "learning_rate": 1e-3}}
    write_data(tmp_path / "data", rows=20_000 if moment == "packing" else 10)
    fork(config, PROCESSES, train, write_recipe(tmp_path, "whole", **settings))
    whole = tmp_path / "whole"
    chance, kills, runs = random.Random(0), 0, 0
    while kills < KILLS:
        output = tmp_path / f"killed-{runs}"
        recipe, runs = write_recipe(tmp_path, output.name, **settings), runs + 1
        codes = None
        while codes != [0] * PROCESSES:
            started = start(config, PROCESSES, train, recipe)
            if kills < KILLS:
                kills += kill_one(started, output, moment, chance)
            codes = end(started)
        files = [*whole.glob("rows/**/*.arrow"), whole / "final/model.safetensors"]
        assert len(files) > 1
        for file in files:
            assert (output / file.relative_to(whole)).read_bytes() == file.read_bytes(), file
        assert losses(output) == losses(whole)
    print(f"\n{config}: {kills} kills while {moment}, in {runs} runs", flush=True)
