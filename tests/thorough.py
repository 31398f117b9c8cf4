# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""How much to test: `FBLT_THOROUGH=1` asks for the long form of tests that have one, minutes instead of seconds."""

import os

THOROUGH = bool(os.environ.get("FBLT_THOROUGH"))


def cases(quick: int, thorough: int) -> int:
    """How many cases, samples or kills to try."""
    return thorough if THOROUGH else quick
