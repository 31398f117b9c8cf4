"""Rows of damaged lines: their contents, their order, and a run on them that is killed and goes on."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("datasets")

from datasets import Dataset, DatasetDict  # noqa: E402
from fblt.training.data.restore.damage import draw_damage  # noqa: E402
from fblt.training.packing.damaged_lines import (  # noqa: E402
    DamagedLines,
    damaged_rows,
    held_out_examples,
    load_lines,
)
from fblt.training.recipe import check_recipe, load_recipe  # noqa: E402
from fblt.training.run import build_trainer, run  # noqa: E402

from modeling_fblt.configuration_fblt import BYTE_OFFSET  # noqa: E402
from tests.thorough import THOROUGH  # noqa: E402
from tests.training.runs import losses, run_in_parts, write_recipe  # noqa: E402

SHARES = {"accents": 0.25, "plain": 0.35, "typos": 0.3, "none": 0.1}
WORDS = ("Příliš", "žluťoučký", "kůň,", "úpěl", "ďábelské", "ódy.", "Đường", "Größe:", "łąka", "cœur!")


def made_lines(count: int) -> list[str]:
    """Lines of two to six words."""
    chance = np.random.default_rng(0)
    return [" ".join(chance.choice(WORDS, chance.integers(2, 7))) for _ in range(count)]


def text(ids: torch.Tensor) -> str:
    return bytes(i - BYTE_OFFSET for i in ids.tolist() if i >= BYTE_OFFSET).decode()


def test_a_row_is_damaged_line_newline_line_and_end():
    lines = made_lines(20)
    rows = DamagedLines(lines, SHARES, seed=3, longest=300)
    for epoch in (0, 2):
        for index, line in enumerate(lines):
            row = rows[epoch * len(rows) + index]
            damaged = draw_damage(line, SHARES, (3, epoch, index))
            assert text(row["input_ids"]) == f"{damaged}\n{line}"
            assert text(row["labels"][row["labels"] >= 0]) == line
            assert row["input_ids"][0] == 1 and row["input_ids"][-1] == row["labels"][-1] == 2


def test_epochs_differ_in_damage_and_repeat_it():
    rows = DamagedLines(made_lines(30), SHARES, seed=0, longest=300)

    def epoch(number: int) -> list[list[int]]:
        return [rows[number * len(rows) + index]["input_ids"].tolist() for index in range(len(rows))]

    assert epoch(0) == epoch(0)
    assert epoch(0) != epoch(1)


def test_held_out_damage_does_not_depend_on_an_epoch():
    lines = made_lines(10)
    found = held_out_examples(lines, SHARES, 0)
    assert found["completion"] == lines
    assert found["prompt"] == held_out_examples(lines, SHARES, 0)["prompt"]


def test_lines_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`sequence_length` is 20"):
        DamagedLines(["a line that is too long"], SHARES, 0, 20)
    with pytest.raises(ValueError, match="no lines"):
        DamagedLines([], SHARES, 0, 20)
    with pytest.raises(ValueError, match="holds no lines"):
        load_lines(tmp_path, "train")


@pytest.fixture
def recipe_of(tmp_path):
    """Writes recipes of tiny runs on made-up lines."""
    splits = {"train": made_lines(14), "validation": made_lines(5)}
    DatasetDict({name: Dataset.from_dict({"text": lines}) for name, lines in splits.items()}).save_to_disk(
        str(tmp_path / "data")
    )

    (tmp_path / "patcher").mkdir()  # none is needed

    def write(name: str, **trainer):
        settings = {"max_steps": 11, "save_steps": 1, "eval_strategy": "steps", "eval_steps": 5} | trainer
        return load_recipe(
            write_recipe(
                tmp_path, name, model={"patching_mode": "space"}, trainer=settings, damage=SHARES, sequence_length=160
            )
        )

    return write


def test_a_run_that_ends_anywhere_goes_on_with_the_same_rows(recipe_of):
    run(recipe_of("whole"))  # an epoch of 7 steps and more
    broken = recipe_of("broken")
    run_in_parts(broken, stops=(3, 7, 9) if THOROUGH else (9,))
    whole = losses(Path(broken["output"]).parent / "whole")
    assert len(whole) == 11 and losses(Path(broken["output"])) == whole


def test_recipes_with_wrong_shares_are_refused(tmp_path):
    path = write_recipe(tmp_path, "wrong", damage={"plain": 0.5})
    with pytest.raises(ValueError, match="`damage` is {'plain': 0.5}: give a share"):
        load_recipe(path)


def test_longer_lines_are_left_out(recipe_of):
    recipe = recipe_of("short")
    longest = sorted(len(line.encode()) for line in load_lines(recipe["data"], "train")["text"])[7]
    rows = build_trainer(recipe | {"longest_line": longest}).train_dataset
    assert 7 < len(rows) < 14 and max(len(line.encode()) for line in rows.lines) == longest
    with pytest.raises(ValueError, match="`longest_line` is 3, but every line of"):
        build_trainer(recipe | {"longest_line": 3})


def test_rows_to_train_a_draft_head_on_hold_damaged_lines_and_lines(recipe_of):
    recipe = recipe_of("head") | {"sequence_length": 40}
    rows = damaged_rows(recipe, most=9)
    assert set(rows) == {"train", "validation"} and all(found.shape[1] == 40 for found in rows.values())
    lines = set(load_lines(recipe["data"], "train")["text"])
    documents = text(torch.from_numpy(np.where(rows["train"] == 2, 4, rows["train"]).flatten())).split("\0")
    whole = [document.split("\n") for document in documents[:-1]]
    assert 5 <= len(whole) <= 9 and all(line in lines for _, line in whole)
    assert any(damaged != line for damaged, line in whole)
    assert np.array_equal(rows["train"], damaged_rows(recipe, most=9)["train"])
    with pytest.raises(ValueError, match="less than one row of 100000 ids"):
        damaged_rows(recipe | {"sequence_length": 100_000}, most=9)


@pytest.mark.parametrize("changes", [{"longest_line": 0}, {"longest_line": "64"}, {"longest_line": True}])
def test_limits_that_are_no_lengths_are_refused(recipe_of, changes, tmp_path):
    with pytest.raises(ValueError, match="`longest_line` is"):
        check_recipe(recipe_of("limit") | changes, "limit.yaml")


def test_a_limit_of_lines_goes_with_damage(tmp_path):
    path = write_recipe(tmp_path, "limit", longest_line=64)
    with pytest.raises(ValueError, match="`longest_line` goes with `damage` alone"):
        load_recipe(path)
