"""Several processes of a run, forked from this one: what a launch does but for starting Python and importing anew."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils.launch import prepare_multi_gpu_env

from tests.training.test_distributed import ROOT, free_port


def environment(config: str, processes: int) -> dict[str, str]:
    """The variables that `accelerate launch` would set."""
    command = ["--config_file", str(ROOT / f"training/accelerate/{config}.yaml"), "--num_processes", str(processes)]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args([*command, "script.py"]))
    changed = prepare_multi_gpu_env(arguments)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
    return {name: value for name, value in changed.items() if os.environ.get(name) != value} | meeting | sizes


def start(config: str, processes: int, work: Callable, *arguments) -> list[BaseProcess]:
    """Begins `work(*arguments)` in so many processes, which find each other as those of a launch do."""
    context, variables = multiprocessing.get_context("fork"), environment(config, processes)
    started = [
        context.Process(target=_work, args=(variables, rank, work, arguments), daemon=True) for rank in range(processes)
    ]
    for process in started:
        process.start()
    return started


def end(started: list[BaseProcess]) -> list[int]:
    """Waits for processes; once one has failed, the others, which would wait for it, are killed. Their exit codes."""
    while any(process.is_alive() for process in started):
        if any(process.exitcode for process in started):
            for process in started:
                process.kill()
        for process in started:
            process.join(0.05)
    return [process.exitcode for process in started]


def fork(config: str, processes: int, work: Callable, *arguments) -> None:
    """As [`start`], and waits for the end of all, none of which may fail."""
    assert end(start(config, processes, work, *arguments)) == [0] * processes


def _work(variables: dict[str, str], rank: int, work: Callable, arguments: tuple) -> None:
    os.environ |= variables | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState._reset_state()
    torch.set_num_threads(1)
    work(*arguments)
    torch.distributed.destroy_process_group()
