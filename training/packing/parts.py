"""Packing by several machines: each makes a part of the shards in a folder of its own; then they are taken in."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from fblt.locks import alone_in

from .corpus import Shard

PLAN = "plan.json"  # in a folder of work: what it is to become


@dataclass(frozen=True)
class Part:
    """One of `of` parts, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """`"3/64"`.

        Raises:
            ValueError: it is not written so, or there is no such part.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise ValueError(f"`--part` is {text!r}: give a part and how many there are, from 1/64 to 64/64.")
        return cls(int(number), int(of))

    def folder(self, output: Path) -> Path:
        return output.with_name(f"{_prefix(output)}{self.number}-of-{self.of}")

    def of_shards(self, shards: list[Shard]) -> list[Shard]:
        return shards[self.number - 1 :: self.of]


def _prefix(output: Path) -> str:
    return f".{output.name}-part-"


def read_plan(file: Path) -> dict:
    """What a folder of work notes it is to become.

    Raises:
        ValueError: the note is damaged.
    """
    try:
        plan = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        plan = None
    if not isinstance(plan, dict):
        raise ValueError(f"`--output`: {file} is damaged: delete the folder that it is in to begin anew.")
    return plan


def take_parts(output: Path, work: Path, plan: dict, shards: list[Shard]) -> None:
    """Moves the shards of all parts beside `output` into `work`, and deletes their folders.

    Raises:
        ValueError: a part is of other rows, or is still being packed; all shards stay where they are.
    """
    folders = sorted(path for path in output.parent.iterdir() if path.name.startswith(_prefix(output)))
    for folder in folders:
        noted = read_plan(folder / PLAN) if (folder / PLAN).is_file() else {}
        differences = sorted(key for key in plan if noted.get(key) != plan[key])
        if differences:
            raise ValueError(
                f"`--output`: {str(folder)!r} holds a part of rows that differ in {differences}: give all parts the "
                "same arguments and files, or delete that folder."
            )
    for folder in folders:
        with alone_in(folder, output):
            for shard in shards:
                made, place = shard.folder(folder), shard.folder(work)
                if made.is_dir() and not place.is_dir():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    made.rename(place)
            shutil.rmtree(folder)
