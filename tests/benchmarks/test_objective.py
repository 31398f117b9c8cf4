# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The benchmark of the objective's options: variants are what they say, and an interrupted run goes on."""

import json

import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict
from fblt.benchmarks import objective
from fblt.training.recipe import OBJECTIVE, load_recipe

from modeling_fblt import FBLTConfig, FBLTForCausalLM
from tests.thorough import long_run
from tests.training.runs import MODEL


def test_every_variant_is_a_recipe_that_differs():
    recipe = load_recipe(objective.RECIPE)
    base = objective.varied(recipe, {}, 0.5)
    assert base["optimizer"]["learning_rate"] == 0.5 * recipe["optimizer"]["learning_rate"]
    for name, changes in objective.VARIANTS.items():
        found = objective.varied(recipe, changes, 0.5)
        assert (found == base) == (name == objective.BASE), name
        FBLTConfig(**found["model"])
        assert set(changes.get("model", {})) <= set(OBJECTIVE)
    assert objective.varied(recipe, {"model": objective.PAPER}, 1)["model"] == {
        **recipe["model"],
        **{key: getattr(FBLTConfig(), key) for key in objective.PAPER},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny checkpoint, documents long enough for prompts, and the demo's recipe without limits on its sources."""
    folder = tmp_path_factory.mktemp("objective")
    torch.manual_seed(0)
    FBLTForCausalLM(FBLTConfig(**MODEL, patching_threshold=5.5)).save_pretrained(folder / "model")
    texts = [" ".join(f"{i * j} apples" for j in range(60)) for i in range(1, 41)]
    splits = {"train": texts, "validation": texts[:4]}
    DatasetDict(
        {name: Dataset.from_dict({"text": found, "source": ["sums"] * len(found)}) for name, found in splits.items()}
    ).save_to_disk(str(folder / "data"))
    recipe = yaml.safe_load(objective.RECIPE.read_text())
    del recipe["max_bytes"]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@long_run
@pytest.mark.slow
def test_variants_are_trained_judged_and_kept(folder, monkeypatch):
    output = folder / "objective.json"
    command = [
        "--quick",
        "--steps",
        "2",
        "--forget",
        "1",
        "--dtype",
        "float32",
        "--output",
        str(output),
        "--rows",
        str(folder / "rows"),
    ]
    command += [
        "--recipe",
        str(folder / "recipe.yaml"),
        "--model",
        str(folder / "model"),
        "--data",
        str(folder / "data"),
    ]
    first = objective.main([*command, "--variants", f"{objective.BASE},block_size: 16"], standalone_mode=False)
    assert json.loads(output.read_text()) == first
    before, figures = first["before"], first["variants"]
    assert list(figures) == [objective.BASE, "block_size: 16"]
    assert all(found["bits_per_byte"] != before["bits_per_byte"] for found in figures.values())
    assert len(figures[objective.BASE]["one_step"]["histogram"]) == 8
    assert len(figures["block_size: 16"]["one_step"]["histogram"]) == 16

    monkeypatch.setattr(objective, "train", lambda *args: pytest.fail("a variant was trained again"))
    assert objective.main([*command, "--variants", objective.BASE], standalone_mode=False)["variants"] == figures
    with pytest.raises(pytest.fail.Exception):
        objective.main([*command, "--rate", "0.25", "--variants", objective.BASE], standalone_mode=False)
