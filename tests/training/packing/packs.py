"""What the tests of packing share."""

from pathlib import Path

import numpy as np

LENGTH = 24
ROW_BYTES = LENGTH  # as `shard_bytes`: one batch of two rows


def texts(count: int, seed: int = 0) -> list[str]:
    words = ("the", "patch", "of\nbytes", "écrit", "\treturn", "a", "block", "", '"x", y')
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(words, generator.integers(12))) for _ in range(count)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
