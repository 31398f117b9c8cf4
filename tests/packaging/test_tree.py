"""What the repository's own files must be like: no symlinks, every command listed."""

import subprocess
from importlib import import_module
from pathlib import Path

import click

from fblt.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def tracked(*arguments: str) -> list[str]:
    command = ["git", "ls-files", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def sources(part: str) -> list[Path]:
    return [ROOT / name for name in tracked(f"{part}/*.py") if (ROOT / name).is_file()]


def listed_modules() -> set[str]:
    """Where the commands are, those of groups such as `prepare` included."""
    found = set()
    for place, _ in COMMANDS.values():
        module, function = place.split(":")
        found.add(module)
        command = getattr(import_module(module), function)
        if isinstance(command, click.Group):
            found |= {inner.callback.__module__ for inner in command.commands.values()}
    return found


def test_no_tracked_file_is_a_symlink():
    """A checkout without symlinks has the path of the target as the content of the file: no Python."""
    listed = tracked("-s")
    links = [line.partition("\t")[2] for line in listed if line.startswith("120000 ")]
    assert listed and not links


def test_every_command_is_listed():
    listed = listed_modules()
    for part in ("conversion", "training", "fblt"):
        for file in sources(part):
            if "examples" in file.parts or "@click.command" not in file.read_text(encoding="utf-8"):
                continue
            inside = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            assert (inside if part == "fblt" else f"fblt.{inside}") in listed, file
    for name in listed:  # and is where the list says
        assert any((ROOT / place.replace(".", "/")).with_suffix(".py").is_file() for place in (name, name[5:])), name
