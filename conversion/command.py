# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What the commands of this package share: a refusal is one line and an exit code, not a traceback."""

import sys
from collections.abc import Callable
from functools import wraps

Main = Callable[[list[str] | None], int]


def refusing(main: Main) -> Main:
    """Wraps a command's `main`: errors that name what is wrong are printed, and the exit code is 1."""

    @wraps(main)
    def run(arguments: list[str] | None = None) -> int:
        try:
            return main(arguments)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    return run
