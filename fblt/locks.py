"""Folders that one process at a time works in."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = "lock"
WITHOUT_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # what file systems that have no locks answer


@contextmanager
def alone_in(folder: Path, output: Path | None = None) -> Iterator[None]:
    """Keeps other processes out of a folder that is worked in; ends with the process, however that ends.

    Args:
        folder: to work in; made if need be.
        output: what the user knows it as; the folder itself when None.

    Raises:
        ValueError: another process works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # A lock that is no more than a file would outlive a killed process, so such a fallback is not taken.
    lock = FileLock(folder / LOCK, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(
            f"Another process is writing `output` {str(output or folder)!r}: end that one first (a killed launcher may "
            "leave its processes running), or give another `output`."
        ) from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    try:
        yield
    finally:
        if lock.is_locked:
            lock.release()
