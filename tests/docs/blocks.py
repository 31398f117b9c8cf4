"""Fenced blocks of the documentation, to be run as they stand."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language, in order; there is at least one."""
    found = [body for kind, body in FENCE.findall((ROOT / page).read_text(encoding="utf-8")) if kind == language]
    assert found, f"{page} has no block of {language}"
    return found


def commands(page: str) -> list[list[str]]:
    """The arguments of every `fblt` command in a page's blocks of `sh`."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("fblt ")]
