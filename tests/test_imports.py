"""Imports between rooms go one way, and nowhere in a circle."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = {"fblt.files", "fblt.commands", "fblt.checksums", "fblt.locks"}  # import each other alone and serve all
# Tokenizers, prompts through a model, and what streams out of it, for commands, measures and benchmarks alike.
WRITING = {"fblt.batches", "fblt.drafts", "fblt.restoring", "fblt.tokenizers"}
# What each room may import beside itself and SHARED.
MAY_IMPORT = {
    "modeling_fblt": set(),
    "fblt.batches": {"modeling_fblt"},
    "fblt.drafts": {"modeling_fblt"},
    "fblt.restoring": {"modeling_fblt", "fblt.batches"},
    "fblt.tokenizers": {"modeling_fblt"},
    "conversion": {"modeling_fblt"},
    "training": {"modeling_fblt", "conversion", *WRITING},
    "benchmarks": {"modeling_fblt", "conversion", "training", *WRITING},
    "examples": {"modeling_fblt", "conversion", "training", "fblt", *WRITING},
}
# The folders and modules of training, from the first that imports none of the others to the last.
TRAINING = ("data", "running", "recipe", "packing", "evaluation", "trainer", "components", "publishing")


def modules() -> dict[str, Path]:
    """All modules of the rooms by their names, `fblt.` left out."""
    files = [file for room in (*MAY_IMPORT, "fblt") for file in (ROOT / room).rglob("*.py")]
    return {file.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): file for file in files}


MODULES = modules()


def imported(name: str, everywhere: bool = True) -> Iterator[str]:
    """Modules of ours that a module imports, in functions too if `everywhere`."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    package = name.removesuffix(".__init__").split(".") if name.endswith(".__init__") else name.split(".")[:-1]
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found = [f"{base}.{alias.name}" for alias in node.names] + [base]
        else:
            continue
        for target in found:
            room = target.removeprefix("fblt.")
            for candidate in (target, room, f"{target}.__init__", f"{room}.__init__"):
                if candidate in MODULES:
                    yield candidate
                    break


def room_of(module: str) -> str:
    return module if module in SHARED | WRITING else module.partition(".")[0]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_between_rooms_go_one_way(room):
    members = [name for name in MODULES if room_of(name) == room]
    assert members
    allowed = MAY_IMPORT[room] | {room} | (set() if room == "modeling_fblt" else SHARED)
    found = [(name, target) for name in members for target in imported(name)]
    assert not [f"{name} imports {target}" for name, target in found if room_of(target) not in allowed]


@pytest.mark.parametrize("name", sorted(SHARED))
def test_what_serves_all_rooms_imports_none(name):
    assert {room_of(target) for target in imported(name)} <= SHARED


def test_the_folders_of_training_import_one_way():
    ranks = {name: rank for rank, name in enumerate(TRAINING)}
    wrong = []
    for name in MODULES:
        room, *rest = name.split(".")
        if room == "training" and rest[0] in ranks:
            for target in imported(name):
                folder = target.split(".")[1] if target.startswith("training.") else None
                if folder is not None and folder != "__init__" and ranks.get(folder, len(ranks)) > ranks[rest[0]]:
                    wrong.append(f"{name} imports {target}")
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: set(imported(name, everywhere=False)) - {name} for name in MODULES}
    left = dict(graph)
    while leaves := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in leaves:
            del left[name]
    # A package that takes names out of its own modules is no circle of these.
    packages = {name for name in left if name.endswith(".__init__")}
    assert not left.keys() - packages, {name: sorted(graph[name] & left.keys()) for name in left}


def test_training_has_few_entries_at_its_root():
    entries = [entry for entry in (ROOT / "training").iterdir() if entry.name != "__pycache__"]
    assert len(entries) <= 15, sorted(entry.name for entry in entries)
