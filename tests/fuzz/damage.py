"""Damage to folders: what disks, careless hands and people who mean harm do to files."""

import json
import os
import random
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BAD_VALUES = (
    None,
    True,
    False,
    -1,
    0,
    1,
    7,
    2.5,
    -0.5,
    1e308,
    float("nan"),
    float("inf"),
    10**6,
    10**12,
    10**30,
    "",
    "x",
)
BAD_VALUES += ("../../etc/passwd", "é\u0000", [], [0], ["x"], [[]], {}, {"a": 1})
BAD_TEXTS = (b"", b"{", b"[]", b"{}", b"null", b"3", b'"x"', b"[" * 5000, b"\xff\xfe\x00", b'{"a": 1, "a": 2}')


class Hang(BaseException):
    """What was called took too long; no `except Exception` stops it."""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raises [`Hang`] in what takes more of this process's own time: other work on the machine makes no hang."""

    def stop(*arguments):
        raise Hang(f"longer than {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def damage(folder: Path, chance: random.Random, elsewhere: Path, files: tuple[str, ...] = ("*",)) -> str:
    """Damages one of a folder's files that match; returns what was done.

    Args:
        elsewhere: a file outside that a link may lead to.
    """
    found = sorted({path for pattern in files for path in folder.rglob(pattern) if path.is_file()})
    path = chance.choice(found)
    name = path.relative_to(folder)
    kinds = ["flip", "cut", "grow", "text", "gone", "folder", "link"]
    if path.suffix == ".json":
        kinds += ["value"] * 12
    kind = chance.choice(kinds)
    content = path.read_bytes()
    if kind == "value":
        return f"{name}: {damage_json(path, chance)}"
    if kind == "flip":
        place = chance.randrange(max(len(content), 1))
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << chance.randrange(8))]) + content[place + 1 :])
    elif kind == "cut":
        os.truncate(path, chance.randrange(len(content)) if content else 0)
    elif kind == "grow":
        path.write_bytes(content + chance.randbytes(chance.randrange(1, 50)))
    elif kind == "text":
        path.write_bytes(chance.choice(BAD_TEXTS))
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "link":
            shutil.copyfile(elsewhere, elsewhere.with_suffix(path.suffix))
            path.symlink_to(elsewhere.with_suffix(path.suffix))
    return f"{name}: {kind}"


def damage_json(path: Path, chance: random.Random) -> str:
    """Gives one field of a JSON file, at any depth, a bad value, or drops it; returns what was done."""
    content = json.loads(path.read_text())
    place, keys = content, []
    while isinstance(place, dict) and place:
        keys.append(chance.choice(sorted(place)))
        if not isinstance(place[keys[-1]], dict) or not place[keys[-1]] or chance.random() < 0.1:
            break
        place = place[keys[-1]]
    if not keys:
        return "nothing"
    if chance.random() < 0.15:
        del place[keys[-1]]
        what = "dropped"
    else:
        place[keys[-1]] = value = chance.choice(BAD_VALUES)
        what = repr(value)
    path.write_text(json.dumps(content))
    return f"{'.'.join(keys)} = {what}"


def same(one: Any, other: Any) -> bool:
    """Whether two nested results are equal, NaN to NaN."""
    return json.dumps(one, sort_keys=True, default=str) == json.dumps(other, sort_keys=True, default=str)
