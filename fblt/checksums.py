"""The sha256 of a folder's files, kept beside them, so that a damaged file is noticed before it is used."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from .files import write_text_atomically

CHECKSUMS = "checksums.json"
THREADS = min(8, os.cpu_count() or 1)  # hashing lets other threads run


def write_checksums(folder: Path) -> None:
    """Notes size and sha256 of every file below a folder that is complete but for this list.

    Code is left out: `fblt sync-code` may renew it in any checkpoint.
    """
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    files = describe(folder, [name for name in names if name != CHECKSUMS and not name.endswith(".py")])
    write_text_atomically(folder / CHECKSUMS, json.dumps(files, indent=2) + "\n")


def check_folder(folder: Path) -> None:
    """Compares a folder with what [`write_checksums`] noted; does nothing where it noted nothing.

    Raises:
        ValueError: a file is missing, or not what it was, or the list itself is damaged; the message names the file.
    """
    file = folder / CHECKSUMS
    if not file.is_file():
        return
    try:
        files = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        files = None
    if not is_description(files):
        raise ValueError(f"{file}: is damaged: it is no list of files with their checksums")
    check_files(folder, files)


def describe(folder: Path, names: list[str]) -> dict[str, dict]:
    """Size and sha256 of files in a folder, by name."""
    sizes = [(folder / name).stat().st_size for name in names]
    entries = zip(sizes, _digests(folder, names), strict=True)
    return {name: {"bytes": size, "sha256": digest} for name, (size, digest) in zip(names, entries, strict=True)}


def is_description(files: object) -> bool:
    """Whether this is what [`describe`] returns, of files below the folder and nowhere else."""
    return isinstance(files, dict) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("bytes"), int)
        and isinstance(entry.get("sha256"), str)
        and not PurePosixPath(name).is_absolute()
        and ".." not in PurePosixPath(name).parts
        for name, entry in files.items()
    )


def check_files(folder: Path, files: dict[str, dict]) -> None:
    """Compares files with their description, all sizes before the first file is read.

    Raises:
        ValueError: a file is missing, or not what it was; the message names it.
    """
    for name, entry in files.items():
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name}: is missing")
        if (size := (folder / name).stat().st_size) != entry["bytes"]:
            raise ValueError(f"{folder / name}: is damaged: it has {size} bytes, not {entry['bytes']}")
    for name, digest in zip(files, _digests(folder, list(files)), strict=True):
        if digest != files[name]["sha256"]:
            raise ValueError(f"{folder / name}: is damaged: its sha256 is not the one noted when it was written")


def _digests(folder: Path, names: list[str]) -> list[str]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda name: _sha256(folder / name), names))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
