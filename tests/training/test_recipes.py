"""Recipes: what is refused by name, and that each one of this project trains."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from fblt.training.packing.instructions import encode_instruction
from fblt.training.packing.run_rows import rows_for_model
from fblt.training.packing.sequences import collate
from fblt.training.recipe import OBJECTIVE, check_recipe, load_recipe
from fblt.training.run import build_model, load_initial, run

from modeling_fblt import FBLTConfig, FBLTForCausalLM
from modeling_fblt.configuration_fblt import BOS_ID, BYTE_OFFSET, EOS_ID
from tests.thorough import long_run  # noqa: E402
from tests.training.runs import (
    LENGTH,
    MODEL,
    NETWORK,
    instruction_rows,
    losses,
    write_data,
    write_instructions,
    write_lines,
    write_patcher,
    write_recipe,
)

RECIPES = sorted((Path(__file__).parents[2] / "training/recipes").glob("*.yaml"))
LARGER = ("3b-blt-d", "8b-blt-d")


def initial_weights(folder: Path) -> Path:
    """Saved random weights with blocks and a threshold that starts patches at some bytes."""
    write_patcher(folder / "patcher", MODEL)
    model = build_model({"model": MODEL, "patcher": {"output": str(folder / "patcher")}}, None)
    model.save_pretrained(folder / "weights")
    return folder / "weights"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stream": 3}, "`stream` is 3"),
        ({"stream": "texts", "stream_parts": 0}, "`stream_parts` is 0"),
        ({"stream_parts": 2}, "goes with `stream` alone"),
        ({"stream": "texts", "damage": {"none": 1.0}}, "`stream` and `damage`"),
        ({"stream": "texts", "trainer": {"max_steps": -1}}, "trainer.max_steps"),
    ],
)
def test_streams_are_checked_before_any_work(tmp_path, changes, message):
    recipe = write_recipe(tmp_path, "stream", **changes)
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe)


# The larger two differ from 1B in widths alone, which are shrunken here.
@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=long_run if path.stem in LARGER else (), id=path.stem) for path in RECIPES]
)
def test_every_recipe_trains_two_steps_at_a_shrunken_size(path, tmp_path):
    recipe = load_recipe(path)
    recipe |= {"output": str(tmp_path / "run"), "data": str(tmp_path / "data"), "sequence_length": LENGTH}
    recipe["evaluation_drafts"] = 8
    recipe.pop("max_bytes", None)
    recipe["trainer"] |= {
        "max_steps": 2,
        "warmup_steps": 1,
        "lr_scheduler_kwargs": {**recipe["trainer"].get("lr_scheduler_kwargs", {})},
        "gradient_accumulation_steps": 1,
        "per_device_train_batch_size": 2,
        "dataloader_num_workers": 0,
        "logging_steps": 1,
        "use_cpu": True,
    }
    if "num_decay_steps" in recipe["trainer"]["lr_scheduler_kwargs"]:
        recipe["trainer"]["lr_scheduler_kwargs"]["num_decay_steps"] = 1
    if "init_from" in recipe:
        recipe["init_from"] = str(initial_weights(tmp_path))
    else:
        sizes = {name: part | MODEL[name] for name, part in recipe["model"].items() if isinstance(part, dict)}
        recipe["model"] |= sizes
    if "patcher" in recipe:
        recipe["patcher"]["output"] = str(tmp_path / "patcher")
        write_patcher(tmp_path / "patcher", recipe["model"])
    if path.stem in ("sft", "translate"):
        write_instructions(tmp_path / "data")
    elif "damage" in recipe:
        write_lines(tmp_path / "data")
    else:
        write_data(tmp_path / "data")
    check_recipe(recipe, path.name)
    run(recipe)
    assert list(losses(tmp_path / "run")) == [1, 2]
    trained = FBLTForCausalLM.from_pretrained(tmp_path / "run/final")
    for name in OBJECTIVE:
        if name in recipe["model"]:
            assert getattr(trained.config, name) == recipe["model"][name]


def test_weights_that_learn_shorter_blocks_draft_no_longer_ones(tmp_path):
    weights = str(initial_weights(tmp_path))
    for size, drafted in ((3, 3), (MODEL["block_size"], MODEL["block_size"])):
        model = load_initial(weights, {"block_size": size})
        assert (model.config.block_size, model.generation_config.block_size) in ((size, drafted), (size, None))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"modle": {}}, "modle"),
        ({"model": {"blok_size": 4}}, "model.blok_size"),
        ({"model": {"global_config": {"hidden_sze": 4}}}, "model.global_config.hidden_sze"),
        ({"model": {"patching_threshold": 1.0}}, "mean_patch_length"),
        ({"optimizer": {"momentum": 0.9}}, "optimizer.momentum"),
        ({"trainer": {"max_step": 3}}, "trainer.max_step"),
        ({"trainer": {"output_dir": "x"}}, "`output`"),
        ({"patcher": {"trainer": {"max_step": 3}}}, "patcher.trainer.max_step"),
        ({"trainer": None}, "trainer"),
    ],
)
def test_what_nothing_reads_is_refused_by_its_name(changes, named, tmp_path):
    recipe = yaml.safe_load(write_recipe(tmp_path, "bad").read_text()) | changes
    with pytest.raises(ValueError, match=named):
        check_recipe(recipe, "bad.yaml")


@pytest.mark.parametrize("section", ["seed", "data", "output", "model", "patcher", "optimizer", "trainer"])
def test_a_recipe_that_lacks_a_section_is_refused_by_its_name(section, tmp_path):
    recipe = yaml.safe_load(write_recipe(tmp_path, "bad").read_text())
    del recipe[section]
    with pytest.raises(ValueError, match=section):
        check_recipe(recipe, "bad.yaml")


def test_files_that_are_no_recipes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nosuch"):
        load_recipe(tmp_path / "nosuch.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="list.yaml"):
        load_recipe(tmp_path / "list.yaml")


def test_saved_weights_keep_their_geometry_and_take_the_objective(tmp_path):
    weights = str(initial_weights(tmp_path))
    settings = {"distillation": 0.5, "block_size": 3, "global_config": NETWORK}
    model = build_model({"init_from": weights, "model": settings}, None)
    assert (model.config.distillation, model.config.block_size) == (0.5, 3)
    for settings, named in (
        ({"block_size": None}, "model.block_size"),
        ({"global_config": {"hidden_size": 32}}, "model.global_config.hidden_size"),
        ({"distillation": 2.0}, "distillation"),
    ):
        with pytest.raises(ValueError, match=named):
            build_model({"init_from": weights, "model": settings}, None)


def test_weights_without_a_block_head_are_sent_to_the_command_that_adds_one(tmp_path):
    FBLTForCausalLM(FBLTConfig(**MODEL | {"block_size": None})).save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match="add_diffusion"):
        build_model({"init_from": str(tmp_path / "plain"), "model": {"block_size": 4}}, None)


def test_models_without_a_patcher_need_no_section_for_one(tmp_path):
    recipe = yaml.safe_load(write_recipe(tmp_path, "static").read_text())
    recipe["model"]["patching_mode"] = "static"
    del recipe["patcher"]
    check_recipe(recipe, "static.yaml")
    run(recipe)
    assert losses(tmp_path / "static")[1]["mean_patch_length"] == pytest.approx(4, abs=1)


def test_a_prompt_carries_no_loss_and_its_completion_does_to_the_end():
    ids, labels = encode_instruction("né", "wé")
    assert ids.tolist() == [BOS_ID, *(byte + BYTE_OFFSET for byte in "néwé".encode()), EOS_ID]
    assert labels.tolist() == [-100] * 4 + ids.tolist()[4:]


def test_rows_of_a_batch_lose_as_they_would_alone(tmp_path):
    """Padding, labels and patch starts of a batch: its loss is that of the rows, each by itself."""
    write_instructions(tmp_path / "data")
    model = FBLTForCausalLM.from_pretrained(initial_weights(tmp_path)).eval()
    lines = (tmp_path / "data/train.jsonl").read_text().splitlines()
    rows = instruction_rows([json.loads(line) for line in lines], LENGTH, model)[::3]
    batch = collate(rows)
    assert len({len(row["input_ids"]) for row in rows}) > 1
    targets = [int((row["labels"] != -100).sum()) for row in rows]
    with torch.no_grad():
        together = model(**batch).loss * sum(targets)
        alone = sum(
            model(input_ids=row["input_ids"][None], labels=row["labels"][None]).loss * count
            for row, count in zip(rows, targets, strict=True)
        )
    torch.testing.assert_close(together, alone)


def test_a_prompt_that_leaves_no_room_is_refused(tmp_path):
    write_instructions(tmp_path / "data")
    model = FBLTForCausalLM.from_pretrained(initial_weights(tmp_path))
    with pytest.raises(ValueError, match="`sequence_length` 4 holds nothing of the completions"):
        rows_for_model(instructions(tmp_path, sequence_length=4), model.model)


def test_instructions_without_their_columns_are_refused_by_name(tmp_path):
    model = FBLTForCausalLM.from_pretrained(initial_weights(tmp_path)).model
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    with pytest.raises(ValueError, match=r"`data` .* has no column 'text': .*'answer'.*`completion`"):
        rows_for_model(instructions(tmp_path), model)
    (tmp_path / "data/train.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    with pytest.raises(ValueError, match="`hold_out` is missing: no source has a validation split"):
        rows_for_model(instructions(tmp_path), model)


def instructions(folder: Path, **changes) -> dict:
    """What a recipe says of its rows."""
    return {
        "data": str(folder / "data"),
        "output": str(folder / "run"),
        "sequence_length": LENGTH,
        "seed": 0,
        **changes,
    }
