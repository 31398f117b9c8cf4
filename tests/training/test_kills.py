"""Commands that write, killed at any moment: what was there stays whole, and the next run leaves nothing behind.

The killing of training itself is in `test_resume`.
"""

import json
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

from modeling_fblt import FBLTForCausalLM
from tests.thorough import few
from tests.training.conftest import tiny_config
from tests.training.runs import write_recipe

# A long local run: FBLT_KILLS=100 python -m pytest tests/training/test_kills.py -s
KILLS = int(os.environ.get("FBLT_KILLS", "1"))
MODULES = {
    "pack": "fblt.training.packing.pack",
    "export": "fblt.training.publishing.export",
    "train-patcher": "fblt.training.components.train_patcher",
    "evaluate": "fblt.training.evaluation.evaluate",
}


def call(module: str, arguments: list[str]) -> None:
    import_module(module).main(arguments)


@pytest.fixture(scope="module")
def context():
    """Starts real processes that have imported what they need already, computing with one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        found = multiprocessing.get_context("forkserver")
        found.set_forkserver_preload([*MODULES.values(), "tests.training.test_kills"])
        yield found


@dataclass
class Writer:
    """A command under attack.

    Attributes:
        output: the folder or file that it writes.
        arguments: of the command, but for its output.
        earlier: makes what stands in `output` before; None for nothing.
        files: those of `output` that are the same whenever they are made; all of them when empty.
    """

    command: str
    output: Path
    arguments: list[str]
    earlier: Callable[[Path], None] | None = None
    files: list[str] = field(default_factory=list)

    def start(self, context):
        process = context.Process(target=call, args=(MODULES[self.command], self.arguments))
        process.start()
        return process

    def finish(self, context) -> float:
        """Runs to the end; returns the seconds it took."""
        began = time.monotonic()
        process = self.start(context)
        process.join()
        assert process.exitcode == 0
        return time.monotonic() - began

    def contents(self) -> dict[str, bytes] | None:
        """What `output` holds; None if it is not there."""
        if self.output.is_file():
            return {"": self.output.read_bytes()}
        if not self.output.is_dir():
            return None
        files = {str(file.relative_to(self.output)): file for file in self.output.rglob("*") if file.is_file()}
        return {name: file.read_bytes() for name, file in sorted(files.items()) if not self.files or name in self.files}

    def reset(self) -> dict[str, bytes] | None:
        """Puts back what was there before; returns it."""
        if self.output.is_dir():
            shutil.rmtree(self.output)
        self.output.unlink(missing_ok=True)
        if self.earlier is not None:
            self.earlier(self.output)
        return self.contents()

    def left(self) -> list[str]:
        """What stands beside `output`."""
        return sorted(path.name for path in self.output.parent.iterdir() if path != self.output)


def save_model(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = FBLTForCausalLM(tiny_config())
    model.lm_head.weight.data.normal_(std=0.5)
    model.save_pretrained(folder)


def writer(command: str, folder: Path) -> Writer:
    """The command with tiny data, and a folder `out` for its output alone."""
    output = folder / "out" / "result"
    output.parent.mkdir()
    recipe = write_recipe(folder, "run")
    save_model(folder / "model", 0)
    if command == "export":
        arguments = ["--source", str(folder / "model"), "--output", str(output)]
        return Writer(command, output, arguments, lambda place: save_model(place, 1))
    if command == "pack":
        arguments = ["--source", f"words={folder / 'data'}", "--license", "words=CC0-1.0", "--sequence-length", "96"]
        arguments += ["--model", str(folder / "model"), "--output", str(output)]
        return Writer(command, output, arguments)
    if command == "train-patcher":
        settings = yaml.safe_load(recipe.read_text())
        settings["patcher"] = {
            "output": str(output),
            "sequence_length": 64,
            "mean_patch_length": 3.0,
            "optimizer": {"name": "adamw", "learning_rate": 1e-2},
            "trainer": {"max_steps": 4, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True},
        }
        recipe.write_text(yaml.safe_dump(settings))
        source = folder / "patcher"  # of another seed
        return Writer(
            command,
            output,
            [str(recipe)],
            lambda place: shutil.copytree(source, place),
            ["model.safetensors", "patching.json"],
        )
    arguments = ["--model", str(folder / "model"), "--data", str(folder / "data"), "--split", "validation"]
    sizes = {"anchors": 8, "context": 32, "max-bytes": 400, "row-length": 128, "free-prompts": 1, "free-bytes": 4}
    sizes |= {"exact-prompts": 1, "batch-size": 8}
    arguments += [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    arguments += ["--output", str(output), "--plot", str(output.with_suffix(".png"))]
    return Writer(command, output, arguments, lambda place: place.write_text("{}\n"))


def kill_somewhere(process, writes: Callable[[], bool], seconds: float, chance: random.Random) -> str | None:
    """Kills a process, half of the time once it writes; says when, None if it ended before."""
    if chance.random() < 0.5:
        while process.is_alive() and not writes():
            time.sleep(0.0005)
        time.sleep(chance.uniform(0, 0.2 * seconds) if chance.random() < 0.5 else chance.uniform(0, 0.01))
    else:
        process.join(chance.uniform(0, seconds))
    process.kill()
    process.join()
    if process.exitcode == 0:
        return None
    return "writing" if writes() else "before or between"


@pytest.mark.slow
@pytest.mark.parametrize("command", few(MODULES, ("export", "train-patcher")))
def test_a_killed_command_loses_nothing_and_the_next_one_leaves_nothing_behind(context, tmp_path, command):
    attacked = writer(command, tmp_path)
    seconds = attacked.finish(context)
    whole, beside = attacked.contents(), attacked.left()
    chance, moments = random.Random(0), []
    earlier = attacked.reset()
    while len(moments) < KILLS:
        moment = kill_somewhere(attacked.start(context), lambda: attacked.left() != beside, seconds, chance)
        assert attacked.contents() in (earlier, whole)
        if moment is None:
            seconds *= 0.8  # the machine is less busy than when this was measured
        else:
            moments.append(moment)
        if moment is None or chance.random() < 0.2 or len(moments) == KILLS:
            # A pack that was killed after it had published is finished by the same command; one that had nothing left
            # to do but to end says that its output exists.
            if moment is not None and (attacked.contents(), attacked.left()) != (whole, beside):
                attacked.finish(context)
            assert attacked.contents() == whole
            assert attacked.left() == beside
            earlier = attacked.reset()
            counts = {moment: moments.count(moment) for moment in sorted(set(moments))}
            print(f"\n{command}: {len(moments)} kills, nothing lost or left: {json.dumps(counts)}", flush=True)
