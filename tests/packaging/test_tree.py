"""What the repository's own files must be like: no symlinks, every command listed."""

import subprocess
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


def test_every_command_is_listed():
    listed = {place.partition(":")[0] for place, _ in COMMANDS.values()}
    for part in ("conversion", "training", "fblt"):
        for file in sources(part):
            if "examples" in file.parts or "@click.command" not in file.read_text(encoding="utf-8"):
                continue
            inside = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            assert (inside if part == "fblt" else f"fblt.{inside}") in listed, file
    for name in listed:  # and is where the list says
        assert any((ROOT / place.replace(".", "/")).with_suffix(".py").is_file() for place in (name, name[5:])), name
