"""Writing results so that a reader never sees half of one: written aside, then renamed."""

import ctypes
import glob
import os
import platform
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from .locks import alone_in

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of <fcntl.h> and <linux/fs.h>


def write_text_atomically(path: str | Path, text: str) -> None:
    """Writes UTF-8 `text` beside `path` and renames it into place; makes the folder if need be."""
    with appearing_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def appearing_file(path: str | Path) -> Iterator[Path]:
    """A file to write: it takes the place of `path` when the block ends, and vanishes if the block fails.

    What killed processes of this machine left of such files is deleted. The suffix is that of `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    ours = f".{path.name}-{platform.node()}-"
    for leftover in path.parent.glob(f"{glob.escape(ours)}*"):
        process = leftover.name.removeprefix(ours).partition("-")[0]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            leftover.unlink(missing_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f"{ours}{os.getpid()}-", suffix=path.suffix, dir=path.parent)
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)  # mkstemp's files are for their owner alone
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def appearing_folder(output: str | Path, new: bool = False) -> Iterator[Path]:
    """A new folder to fill: it takes the place of `output` when the block ends, and vanishes if the block fails.

    An earlier `output` stays until then, and if the renaming fails too. What is written gets the permissions of new
    files and folders, whatever it was copied from. What a killed process left beside `output` is deleted.

    Args:
        output: the folder to make.
        new: refuse an `output` that exists already and is not an empty folder.

    Raises:
        FileExistsError: it exists; nothing is written then.
        ValueError: another process is making it.
    """
    output = Path(output)
    scratch = Path(os.path.abspath(output)).with_name(f".{output.name}-appearing")
    complete = scratch / "complete"
    with alone_in(scratch, output):
        try:
            recover(complete, output)
            if new:
                _refuse_existing(output)
            shutil.rmtree(complete, ignore_errors=True)
            complete.mkdir()
            yield complete
            _make_readable(complete)
            if new:
                _refuse_existing(output)
            publish(complete, output)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


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
    """Makes a written folder appear as `final`, its neighbour, once all of it is on disk; replaces an earlier one.

    Where the system can exchange two folders, there is a whole one under the name `final` at any moment. Elsewhere a
    kill between two renames leaves both beside each other, and [`recover`] finishes.
    """
    sync_folder(written)
    final.parent.mkdir(parents=True, exist_ok=True)
    if not final.exists():
        written.rename(final)
    elif exchange(written, final):
        _delete(written)  # which is the earlier one now
    else:
        replaced = _replaced(written)
        _delete(replaced)
        final.rename(replaced)
        try:
            written.rename(final)
        except OSError:
            replaced.rename(final)
            raise
        _delete(replaced)
    for parent in {final.parent, written.parent}:
        _sync(parent)


def recover(written: Path, final: Path) -> None:
    """Finishes what [`publish`], of the same arguments, was killed at, so that there is a `final` if there was one."""
    replaced = _replaced(written)
    if replaced.is_dir() and not os.path.lexists(final):
        (written if written.is_dir() else replaced).rename(final)  # all of it was on disk before the first rename
    _delete(replaced)


def _replaced(written: Path) -> Path:
    return written.with_name(f"{written.name}-replaced")


def exchange(one: Path, other: Path) -> bool:
    """Gives two files or folders each other's names, at one moment; False where that cannot be done."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None).renameat2
    except AttributeError:  # a C library from before 2018
        return False
    # The kernel, or the file system, may not know how: plain renames then fail too, if there is another reason.
    return rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), ctypes.c_uint(RENAME_EXCHANGE)) == 0


def _delete(path: Path) -> None:
    """Deletes a folder, or the link that stood in its place."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


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
