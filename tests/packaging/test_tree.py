"""What the repository's own files must be like: no symlinks, every command listed."""

import subprocess
from importlib import import_module
from pathlib import Path

from fblt.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def tracked(*arguments: str) -> list[str]:
    command = ["git", "ls-files", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def sources(part: str) -> list[Path]:
    return [ROOT / name for name in tracked(f"{part}/*.py") if (ROOT / name).is_file()]


def test_no_tracked_file_is_a_symlink():
    """A checkout without symlinks has the path of the target as the content of the file: no Python."""
    listed = tracked("-s")
    links = [line.partition("\t")[2] for line in listed if line.startswith("120000 ")]
    assert listed and not links


def file_of(module: str) -> Path:
    """The file of a module of `fblt`: inside that folder, or in a room beside it."""
    places = [(ROOT / name.replace(".", "/")).with_suffix(".py") for name in (module, module.removeprefix("fblt."))]
    return next((place for place in places if place.is_file()), places[0])


def test_every_command_is_listed():
    listed = {place.partition(":")[0] for place, _ in COMMANDS.values()}
    groups = [name for name in listed if "@click.group" in file_of(name).read_text(encoding="utf-8")]
    for name in groups:
        listed |= {command.callback.__module__ for command in import_module(name).main.commands.values()}
    for part in ("conversion", "training", "fblt"):
        for file in sources(part):
            if "examples" in file.parts or "@click.command" not in file.read_text(encoding="utf-8"):
                continue
            inside = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            assert (inside if part == "fblt" else f"fblt.{inside}") in listed, file
    for name in listed:  # and is where the list says
        assert file_of(name).is_file(), name
