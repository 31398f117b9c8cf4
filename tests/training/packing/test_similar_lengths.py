"""Batches of rows of similar length: every row once an epoch, little padding, and the same order after a kill."""

from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from fblt.training.packing.similar_lengths import SimilarLengths, row_lengths
from fblt.training.recipe import load_recipe
from fblt.training.run import build_trainer, run

from tests.thorough import THOROUGH
from tests.training.runs import losses, run_in_parts, write_instructions, write_recipe


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("count", [1, 7, 64, 1000])
def test_every_row_comes_once_an_epoch_in_batches_of_similar_lengths(count, strided):
    lengths = np.random.default_rng(0).integers(20, 400, count)
    sampler = SimilarLengths(lengths, step_size=4, seed=0, stride=count if strided else 0)
    orders = []
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        order = list(sampler)
        first = epoch * count if strided else 0
        assert sorted(order) == list(range(first, first + count))
        assert order == list(sampler)
        orders.append([row % count for row in order])
        if count == 1000:
            batches = lengths[np.array(orders[-1])].reshape(-1, 4)
            assert batches.max(1).sum() * 4 < 1.1 * lengths.sum()  # what padding costs
    assert count < 64 or orders[0] != orders[1]


def test_lengths_are_those_of_the_rows_that_are_left():
    rows = Dataset.from_dict({"input_ids": [[1] * length for length in (3, 0, 7, 5)]}).with_format("torch")
    assert row_lengths(rows).tolist() == [3, 0, 7, 5]
    assert row_lengths(rows.select([3, 0])).tolist() == [5, 3]


@pytest.fixture
def recipe_of(tmp_path):
    """Writes recipes of tiny runs on prompts and completions, in batches of similar length."""
    write_instructions(tmp_path / "prompts")

    def write(name: str) -> dict:
        trainer = {"max_steps": 11, "save_steps": 1, "train_sampling_strategy": "group_by_length"}
        return load_recipe(write_recipe(tmp_path, name, trainer=trainer, data=str(tmp_path / "prompts")))

    return write


def test_the_trainer_batches_rows_of_prompts_and_completions_by_length(recipe_of):
    trainer = build_trainer(recipe_of("rows"))
    lengths = [len(row["input_ids"]) for row in trainer.train_dataset]
    padded = [batch["input_ids"].numel() for batch in trainer.get_train_dataloader()]
    assert sum(padded) < 1.1 * sum(lengths)


def test_a_run_that_ends_anywhere_goes_on_with_the_same_rows(recipe_of):
    whole, broken = recipe_of("whole"), recipe_of("broken")
    run(whole)  # an epoch of 6 steps and more
    run_in_parts(broken, stops=(2, 6, 9) if THOROUGH else (9,))
    found = losses(Path(whole["output"]))
    assert len(found) == 11 and losses(Path(broken["output"])) == found
