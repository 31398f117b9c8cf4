"""What every timing script shares: options, machine description, clocks, interleaved repetitions, results as JSON.

Machines are noisy. So candidates take turns within a repetition (A B C, A B C, ...), ratios are taken within a
repetition, where both sides saw the same machine, and what is reported is the median over repetitions.
"""

import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import click
import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers.generation.streamers import BaseStreamer

from fblt.commands import Command
from fblt.files import write_text_atomically

REPOSITORY = Path(__file__).resolve().parents[1]
K, T = TypeVar("K"), TypeVar("T")
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Listed(click.ParamType):
    """Values with commas between them, as a list.

    Args:
        kind: of each value.
    """

    name = "list"

    def __init__(self, kind: click.ParamType):
        self.kind = kind

    def convert(self, value, parameter, context) -> list:
        parts = value.split(",") if isinstance(value, str) else value
        return [self.kind.convert(part, parameter, context) for part in parts]


POSITIVE = click.IntRange(min=1)
option = functools.partial(click.option, show_default=True)
FILE = click.Path(path_type=Path)


def benchmark(description: str, name: str, repetitions: int, dtype: str) -> Callable[[Callable], Command]:
    """Makes a command of a function that takes all options as one object, with the options that all scripts have.

    Args:
        description: a script's docstring.
        name: of the script; its JSON file is named so.
        repetitions, dtype: defaults.
    """
    shared = [
        option(
            "--output",
            type=FILE,
            default=Path(f"runs/benchmarks/{name}.json"),
            help="JSON file to write.",
        ),
        option("--plot", is_flag=True, help="Also draw a PNG beside the JSON file."),
        option("--quick", is_flag=True, help="The smallest sizes: shows that it runs, not how fast."),
        option("--repetitions", type=POSITIVE, default=repetitions, help="Turns of every candidate."),
        option("--threads", type=POSITIVE, help="Torch threads; torch's choice if not given."),
        option("--dtype", type=click.Choice(list(DTYPES)), default=dtype),
        option(
            "--clock",
            type=click.Choice(list(CLOCKS)),
            default="wall",
            help="cpu counts this process's own processor time: for a first look on a busy machine, one thread only.",
        ),
        option("--seed", type=int, default=0),
    ]

    def make(run: Callable[[SimpleNamespace], dict]) -> Command:
        @functools.wraps(run)
        def called(**given):
            return run(SimpleNamespace(**given))

        for option in reversed(shared):
            called = option(called)
        return click.command(name, cls=Command, help=description.replace("\n\n    python", "\n\n\b\n    python"))(
            called
        )

    return make


def help_of(description: str) -> str:
    """A docstring as help: its commands keep their lines."""
    return description.replace("\n\n    python", "\n\n\b\n    python")


def in_own_process(
    module: str, options: SimpleNamespace, names: Sequence[str], *arguments: str, environment: Mapping | None = None
) -> dict:
    """What a script prints last, as JSON, when it runs in a process of its own.

    Args:
        module: the script's.
        options: those `names` that have a value are handed on.
        arguments: further ones.
        environment: in place of this process's.

    Raises:
        RuntimeError: the process failed; with the end of what it said.
    """
    command = [sys.executable, "-m", module, *arguments]
    for name in names:
        if (value := getattr(options, name)) is not None:
            command += [f"--{name}", str(value)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    if run.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def start(options: SimpleNamespace) -> dict[str, Any]:
    """Applies threads and seed; what a result needs beside it to be understood.

    Raises:
        ValueError: `clock` and `threads` do not go together.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.clock == "cpu" and torch.get_num_threads() > 1:
        raise ValueError(
            f"`--clock cpu` with {torch.get_num_threads()} threads would add their times up: give `--threads 1`."
        )
    torch.manual_seed(options.seed)
    settings = {name: _as_json(value) for name, value in vars(options).items()}
    return {"machine": describe_machine(), "dtype": options.dtype, "clock": options.clock, "settings": settings}


def _as_json(value: Any) -> Any:
    """An option as a result keeps it; a path in this repository without where that stands."""
    if isinstance(value, Path) and value.is_relative_to(REPOSITORY):
        value = value.relative_to(REPOSITORY)
    return value if isinstance(value, (int, float, list, type(None))) else str(value)


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory, load, versions and threads."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "cores_usable": cores,
        "threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError):  # no POSIX system
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def summary_of(machine: Mapping[str, Any], dtype: str, clock: str) -> str:
    """One line for tables and figures."""
    seconds = "" if clock == "wall" else ", processor time of the process"
    threads = machine["threads"]
    return (
        f"{machine['processor']}, {threads} thread{'s' if threads > 1 else ''}, {dtype}, torch {machine['torch']}, "
        f"load {machine['load_before']:.1f} at the start{seconds}"
    )


def interleave(candidates: Mapping[K, Callable[[], T]], repetitions: int) -> dict[K, list[T]]:
    """Calls every candidate in turn, `repetitions` times over; what they returned, in order."""
    results: dict[K, list[T]] = {name: [] for name in candidates}
    for _ in range(repetitions):
        for name, run in candidates.items():
            results[name].append(run())
    return results


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """The median of ratios taken repetition by repetition."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


class Stopwatch(BaseStreamer):
    """A streamer that notes when bytes of the first row arrive, so that reading the prompt can be left out.

    Attributes:
        arrivals: `(seconds, bytes)` of each delivery, the prompt's own left out.
    """

    def __init__(self, clock: Callable[[], float]):
        self.clock = clock
        self.began: float | None = None
        self.arrivals: list[tuple[float, int]] = []

    def put(self, value: torch.Tensor) -> None:
        if self.began is None:  # `generate` hands over the prompt first
            self.began = self.clock()
        else:
            self.arrivals.append((self.clock(), value.numel()))

    def end(self) -> None:
        pass

    def seconds(self, skip: int = 1, drop: int = 0) -> float:
        """From the `skip`-th delivery to the last, or to the `drop`-th before it.

        The first delivery is that of the prompt's own round; the last is cut by the length asked for.
        """
        last = len(self.arrivals) - 1 - drop
        return self.arrivals[last][0] - (self.arrivals[skip - 1][0] if skip else self.began)

    def bytes(self, skip: int = 1, drop: int = 0) -> int:
        """Bytes that arrived in that time."""
        return sum(count for _, count in self.arrivals[skip : len(self.arrivals) - drop])


def report(
    options: SimpleNamespace,
    results: dict[str, Any],
    console: Console,
    print_results: Callable[[dict, Console], None],
    draw: Callable[[dict, Path], None],
) -> dict[str, Any]:
    """Prints the tables, writes the JSON file and, if asked for, the figure beside it; returns the results."""
    print_results(results, console)
    save(options, results, console)
    if options.plot:
        draw(results, options.output.with_suffix(".png"))
    return results


def save(options: SimpleNamespace, results: Mapping[str, Any], console: Console) -> None:
    """Writes the JSON file."""
    write_text_atomically(options.output, json.dumps(results, indent=2) + "\n")
    console.print(f"written: {options.output}", highlight=False)


def build_console() -> Console:
    """A terminal as wide as it is; where there is none, wide enough for all tables."""
    console = Console()
    return console if console.is_terminal else Console(width=130)


def build_table(title: str, first: str, *headings: str, caption: str | None = None) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def number(value: float | None, digits: int = 2) -> str:
    """A figure as text; a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"
