"""Copies the model's code into checkpoint folders, which carry it for whoever loads them from the Hub.

fblt sync-code checkpoints/fblt-demo           # copies modeling_fblt/*_fblt.py, removes files that are no more
fblt sync-code --check checkpoints/fblt-demo   # copies nothing; says what differs, with exit code 1
"""

from importlib.util import find_spec
from pathlib import Path

import click

from .commands import Command
from .files import write_text_atomically

PATTERN = "*_fblt.py"
CHECKOUT = Path(__file__).resolve().parents[1]
BUNDLED = sorted(config.parent for config in CHECKOUT.glob("checkpoints/*/config.json"))


def code_folder() -> Path:
    """Where the package `modeling_fblt` stands, found without importing it (which would import torch)."""
    spec = find_spec("modeling_fblt")
    if spec is None or spec.origin is None:
        raise ValueError("the package `modeling_fblt` is not to be found: install `fblt`, or run from its checkout")
    return Path(spec.origin).parent


def differences(folder: Path, code: Path) -> dict[str, str]:
    """By file name, how the code in `folder` differs from that of `code`: "missing", "stale", "changed" or "a link".

    A link counts as a difference: a checkout without symbolic links would hold a file with a path in it.

    Raises:
        ValueError: `folder` is no checkpoint.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: holds no config.json; give a checkpoint folder")
    wanted = {file.name: file.read_bytes() for file in sorted(code.glob(PATTERN))}
    present = {file.name: file for file in sorted(folder.glob(PATTERN))}
    found = {name: "missing" for name in wanted if name not in present}
    for name, file in present.items():
        if name not in wanted:
            found[name] = "stale"
        elif file.is_symlink():
            found[name] = "a link"
        elif file.read_bytes() != wanted[name]:
            found[name] = "changed"
    return dict(sorted(found.items()))


def copy_code(folder: Path, code: Path) -> dict[str, str]:
    """Makes the code in `folder` that of `code`; returns what differed. Other files stay as they are."""
    found = differences(folder, code)
    for name, what in found.items():
        if what in ("stale", "a link"):
            (folder / name).unlink()
        if what != "stale":
            write_text_atomically(folder / name, (code / name).read_text(encoding="utf-8"))
    return found


@click.command(cls=Command)
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Copy nothing; say what differs, with exit code 1.")
def main(folders: tuple[Path, ...], check: bool) -> None:
    """Copies the model's code into checkpoint FOLDERS; by default into those that a checkout bundles."""
    if not folders and not BUNDLED:
        raise ValueError("FOLDERS: give at least one; only a checkout has bundled checkpoints")
    code = code_folder()
    differ = False
    for folder in folders or BUNDLED:
        found = differences(folder, code) if check else copy_code(folder, code)
        differ |= bool(found)
        for name, what in found.items():
            click.echo(f"{folder / name}: {what}")
        if not found:
            click.echo(f"{folder}: holds the code of {code}")
    if check and differ:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
