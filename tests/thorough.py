# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""How much to test: `FBLT_THOROUGH=1` asks for the long form of tests that have one, minutes instead of seconds."""

import os
from collections.abc import Collection, Iterable

import pytest

THOROUGH = bool(os.environ.get("FBLT_THOROUGH"))


def cases(quick: int, thorough: int) -> int:
    """How many cases, samples or kills to try."""
    return thorough if THOROUGH else quick


def few(values: Iterable, kept: Collection) -> list:
    """Parameters of a test: the quick form runs those that are `kept`, the long one all."""
    return [value if value in kept else pytest.param(value, marks=long_run) for value in values]


# Minutes even in their shortest form: they keep CI from its twenty minutes.
long_run = pytest.mark.skipif(not THOROUGH, reason="takes minutes: set FBLT_THOROUGH=1 to run it")
