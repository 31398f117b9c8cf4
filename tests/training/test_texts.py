"""Files of text are enough: to train a patcher, to pack, to train and to evaluate."""

import json
from pathlib import Path

import pytest

pytest.importorskip("datasets")

from fblt.training.components.train_patcher import main as train_patcher  # noqa: E402
from fblt.training.evaluation import evaluate  # noqa: E402
from fblt.training.evaluation.samples import load_split  # noqa: E402
from fblt.training.packing import pack  # noqa: E402
from fblt.training.train import main as train  # noqa: E402

from tests.cli import refusal, succeed  # noqa: E402
from tests.training.runs import LENGTH, losses, write_recipe  # noqa: E402

FEW = ["--anchors", "20", "--context", "64", "--row-length", "64", "--free-prompts", "1", "--free-bytes", "8"]
FEW += ["--exact-prompts", "1", "--quality-prompts", "1", "--batch-size", "8"]


@pytest.fixture
def texts(tmp_path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(8):
        (folder / f"{i}.txt").write_text(f"Text number {i} begins here.\n" + f"Another line of {i}, é.\n" * 20)
    return folder


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def recipe_of(tmp_path: Path, texts: Path, **changes) -> Path:
    patcher = {
        "output": str(tmp_path / "trained-patcher"),
        "sequence_length": 64,
        "mean_patch_length": 3.0,
        "optimizer": {"name": "adamw", "learning_rate": 1e-2},
        "trainer": {"max_steps": 3, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True},
    }
    return write_recipe(tmp_path, "run", trainer={"max_steps": 2}, data=str(texts), patcher=patcher, **changes)


def test_from_text_to_a_model_and_packed_rows(tmp_path, texts):
    recipe = recipe_of(tmp_path, texts)
    assert "`hold_out` is missing" in refusal(train_patcher, recipe)
    recipe = recipe_of(tmp_path, texts, hold_out=0.25)
    succeed(train_patcher, recipe)
    found = json.loads((tmp_path / "trained-patcher/patching.json").read_text())
    assert found["mean_patch_length"] == pytest.approx(3, abs=0.2)
    succeed(train, recipe)
    assert list(losses(tmp_path / "run")) == [1, 2]
    # The patcher was trained on text, so rows can be packed with it; a run over them is no other run.
    command = ["--source", f"mine={texts}", "--license", "mine=CC0-1.0", "--hold-out", "0.25", "--recipe", recipe]
    packed = tmp_path / "packed"
    succeed(pack.main, *command, "--sequence-length", LENGTH, "--output", packed)
    (own,) = (tmp_path / "run/rows").iterdir()
    for part in ("splits", "patching"):
        assert manifest(packed)[part] == manifest(own)[part]


def test_a_patcher_for_rows_that_are_yet_to_be_packed(tmp_path, texts):
    recipe = recipe_of(tmp_path, tmp_path / "packed", hold_out=0.25)
    assert "does not exist" in refusal(train_patcher, recipe)
    succeed(train_patcher, recipe, "--data", texts)
    assert json.loads((tmp_path / "trained-patcher/patching.json").read_text())["threshold"] > 0


def test_a_recipe_that_trains_no_patcher_is_told_so(tmp_path, texts):
    recipe = write_recipe(tmp_path, "run", data=str(texts))
    message = refusal(train_patcher, recipe)
    assert "lacks ['patcher.sequence_length', 'patcher.mean_patch_length'" in message


def test_files_of_text_are_evaluated(tmp_path, texts, tiny_checkpoint):
    output = tmp_path / "evaluation.json"
    succeed(evaluate.main, "--model", tiny_checkpoint, "--data", texts, "--output", output, *FEW)
    found = json.loads(output.read_text())
    assert found["settings"]["split"] == "train" and set(found["next_byte"]["sources"]) == {"texts"}
    assert found["next_byte"]["all"]["bytes"] == sum(len(file.read_bytes()) for file in texts.iterdir())
    assert "--split test: the data has train" in refusal(
        evaluate.main, "--model", tiny_checkpoint, "--data", texts, "--split", "test", *FEW
    )
    jsonl = tmp_path / "texts.jsonl"
    jsonl.write_text("".join(json.dumps({"text": file.read_text()}) + "\n" for file in sorted(texts.iterdir())))
    again = tmp_path / "again.json"
    succeed(evaluate.main, "--model", tiny_checkpoint, "--data", jsonl, "--output", again, *FEW)
    assert json.loads(again.read_text())["next_byte"]["all"] == found["next_byte"]["all"]


def test_a_prompt_and_its_completion_are_one_document_of_an_evaluation(tmp_path):
    pairs = [{"prompt": "What? ", "completion": "é."}, {"prompt": "", "completion": "That."}]
    jsonl = tmp_path / "pairs.jsonl"
    jsonl.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    documents, split = load_split(jsonl)
    assert split == "train" and documents["text"] == ["What? é.", "That."]
    jsonl.write_text(json.dumps({"prompt": "What? ", "completion": None}) + "\n" + json.dumps(pairs[0]) + "\n")
    with pytest.raises(ValueError, match="row 0 .*'completion'"):
        load_split(jsonl)
