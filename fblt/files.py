"""Writing results so that a reader never sees half of one: written aside, then renamed."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_text_atomically(path: str | Path, text: str) -> None:
    """Writes UTF-8 `text` beside `path` and renames it into place; makes the folder if need be."""
    write_bytes_atomically(path, text.encode("utf-8"))


def write_bytes_atomically(path: str | Path, data: bytes) -> None:
    """As [`write_text_atomically`], for bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(partial, 0o644)  # mkstemp's files are for their owner alone
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


@contextmanager
def appearing_folder(output: str | Path, new: bool = False) -> Iterator[Path]:
    """A new folder to fill: it takes the place of `output` when the block ends, and vanishes if the block fails.

    An earlier `output` stays until then, and if the renaming fails too. What is written gets the permissions of new
    files and folders, whatever it was copied from.

    Args:
        output: the folder to make.
        new: refuse an `output` that exists already and is not an empty folder.

    Raises:
        FileExistsError: it exists; nothing is written then.
    """
    output = Path(output)
    if new:
        _refuse_existing(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        complete = Path(scratch) / "complete"
        complete.mkdir()
        yield complete
        _make_readable(complete)
        if new:
            _refuse_existing(output)
        publish(complete, output)


def _refuse_existing(output: Path) -> None:
    empty = output.is_dir() and not output.is_symlink() and not any(output.iterdir())
    if not empty and os.path.lexists(output):
        raise FileExistsError(f"output {output}: exists; give a folder that does not")


def _make_readable(folder: Path) -> None:
    """Gives everything in a folder that was just made the permissions that the folder itself got."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(mode if path.is_dir() else mode & 0o666)


def publish(written: Path, final: Path) -> None:
    """Makes a written folder appear as `final`, its neighbour, once all of it is on disk; replaces an earlier one."""
    sync_folder(written)
    final.parent.mkdir(parents=True, exist_ok=True)
    replaced = written.with_name(f"{written.name}-replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    earlier = final.exists()
    if earlier:
        final.rename(replaced)
    try:
        written.rename(final)
    except OSError:
        if earlier:
            replaced.rename(final)
        raise
    for parent in {final.parent, written.parent}:
        _sync(parent)
    shutil.rmtree(replaced, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Returns when every file and name below `folder` is on disk."""
    for path, _, files in os.walk(folder, topdown=False):
        for name in files:
            file = Path(path, name)
            if not file.is_symlink():  # a relative one may point to its file only once the folder is in place
                _sync(file)
        _sync(Path(path))


def _sync(path: Path) -> None:
    if os.name == "nt":  # which opens no folders, and flushes no file that is open for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
