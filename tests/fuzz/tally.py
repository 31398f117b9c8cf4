# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Counts what random attacks tried, by class and outcome; with `FBLT_FUZZ_TALLY=file`, as JSON in that file.

Outcomes: `right`, `refused` (a ValueError or TypeError that names the argument), `wrong`, `hang`, `bare` (any other
error). The last three are failures: they are raised again, so that hypothesis makes them small.
"""

import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator

SECONDS = 120  # of this process's own time: after so long a call hangs
COUNTS: Counter[tuple[str, str]] = Counter()


class Hang(Exception):
    """A call took longer than any should."""


def note(kind: str, outcome: str) -> None:
    COUNTS[kind, outcome] += 1
    path = os.environ.get("FBLT_FUZZ_TALLY")
    if path and (sum(COUNTS.values()) % 20 == 0 or outcome in ("wrong", "hang", "bare")):
        table = {}
        for (one, result), count in sorted(COUNTS.items()):
            table.setdefault(one, {})[result] = count
        with open(path, "w") as file:
            json.dump(table, file, indent=1)


@contextlib.contextmanager
def case(kind: str, names: tuple[str, ...] = ()) -> Iterator[None]:
    """A case of a class: right if it ends, refused if an error names one of `names`; what else it does is a failure."""

    def out_of_time(*_):
        raise Hang(f"{kind}: more than {SECONDS} s")

    # Processor time, so that a machine that is busy, or stops processes, makes no hang.
    before = signal.signal(signal.SIGPROF, out_of_time)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    except (ValueError, TypeError) as error:
        if not any(name in str(error) for name in names):
            note(kind, "bare")
            raise
        note(kind, "refused")
    except AssertionError:
        note(kind, "wrong")
        raise
    except Hang:
        note(kind, "hang")
        raise
    except Exception:
        note(kind, "bare")
        raise
    else:
        note(kind, "right")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
