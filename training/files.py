"""Writing results so that a reader never sees half a file."""

import os
import tempfile
from pathlib import Path


def write_text_atomically(path: str | Path, text: str) -> None:
    """Writes UTF-8 `text` beside `path` and renames it into place; makes the folder if need be."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(partial, 0o644)  # mkstemp's files are for their owner alone
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
