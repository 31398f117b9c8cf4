"""The model card: metadata that the Hub can read, and numbers that come from the evaluation, manifest and recipe."""

import json

import pytest
import yaml

pytest.importorskip("datasets")

from fblt.training.evaluation import evaluate  # noqa: E402
from fblt.training.publishing import model_card  # noqa: E402
from fblt.training.publishing.model_card_sections import departures, indented, markdown_table  # noqa: E402

from tests.cli import refusal, succeed  # noqa: E402

RECIPE = {
    "seed": 7,
    "data": "data/tiny",
    "output": "runs/tiny",
    "sequence_length": 100,
    "max_bytes": {"prose": 2_000_000},
    "model": {
        "block_size": 5,
        "max_patch_length": 6,
        "corruption": "draft",
        "draft_fraction": 0.35,
        "distillation": 0.65,
        "diffusion_loss_weight": 0.45,
    },
    "patcher": {"mean_patch_length": 3.5},
    "optimizer": {"name": "muon", "learning_rate": 0.003, "muon_learning_rate": 0.03},
    "trainer": {"per_device_train_batch_size": 4, "max_steps": 900, "lr_scheduler_type": "linear", "bf16": True},
}


def manifest_source(name: str, licence: str) -> dict:
    split = {"documents": 3, "bytes": 1_230_000}
    return {
        "name": name,
        "description": f"The {name} texts",
        "license": licence,
        "packages": [{"name": f"{name}-data", "version": "1.2-3", "sha256": "0"}],
        "splits": dict.fromkeys(("train", "validation", "test"), split),
    }


MANIFEST = {
    "transformations": ["tabs for spaces"],
    "sources": [manifest_source("code", "PSF-2.0"), manifest_source("prose", "Public domain")],
}


@pytest.fixture(scope="module")
def folder(tiny_checkpoint, tiny_data, tmp_path_factory):
    """A folder with an evaluation, a manifest and a recipe."""
    folder = tmp_path_factory.mktemp("card")
    sizes = [
        "--anchors",
        "20",
        "--free-prompts",
        "2",
        "--free-bytes",
        "16",
        "--exact-prompts",
        "2",
        "--quality-prompts",
        "2",
        "--device",
        "cpu",
    ]
    command = ["--model", str(tiny_checkpoint), "--data", str(tiny_data), "--output", str(folder / "eval.json"), *sizes]
    succeed(evaluate.main, *command)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


def write_card(folder, *more: str) -> str:
    output = folder / "fblt-tiny" / "README.md"
    files = {"evaluation": "eval.json", "manifest": "manifest.json", "recipe": "recipe.yaml"}
    command = [part for name, file in files.items() for part in (f"--{name}", str(folder / file))]
    succeed(model_card.main, *command, "--output", output, *more)
    return output.read_text()


def test_metadata(folder):
    text = write_card(folder)
    assert text.startswith("---\n")
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["license"] == "apache-2.0" and metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "text-generation" and metadata["language"] == "en"
    assert {"fblt", "byte-level", "block-diffusion", "custom_code"} == set(metadata["tags"])


def test_the_card_says_what_was_measured(folder):
    text = write_card(folder, "--hours", "5.25", "--hardware", "two old cores")
    evaluation = json.loads((folder / "eval.json").read_text())
    figures = evaluation["next_byte"]["all"]
    for key in ("bits_per_byte", "accuracy", "accuracy_non_blank"):
        assert f"{figures[key]:.3f}" in text
    assert f"{evaluation['drafts']['one_step']['leading_correct']['mean']:.3f} ±" in text
    assert f"{evaluation['writing']['decodings']['blt-d']['distinct_8grams']:.3f}" in text
    assert "blt-dv equals ar on 2 of 2 prompts" in text
    assert "5.2 hours" in text and "two old cores" in text and "900 steps planned" in text and "seed 7" in text
    assert 'folder = "fblt-tiny"' in text and "trust_remote_code=True" in text
    for part in ("PSF-2.0", "Public domain", "code-data 1.2-3", "3 / 1.23", "2 MB", "tabs for spaces"):
        assert part in text
    for sample in evaluation["writing"]["samples"]:
        assert indented(sample["ar"]) in text


def test_steps_and_hours_of_the_checkpoint(folder):
    path = folder / "eval.json"
    evaluation = json.loads(path.read_text())
    evaluation["checkpoint"]["training"] = {"steps": 500, "hours": 1.5}
    changed = folder / "with_progress"
    changed.mkdir()
    for name in ("manifest.json", "recipe.yaml"):
        (changed / name).write_bytes((folder / name).read_bytes())
    (changed / "eval.json").write_text(json.dumps(evaluation))
    text = write_card(changed)
    assert "500 of 900 steps (0.2 MB" in text and "1.5 hours" in text


def test_an_earlier_state_stands_beside_the_newest(folder, tmp_path):
    before = json.loads((folder / "eval.json").read_text())
    assert "## Before and after" not in write_card(folder)
    before["next_byte"]["all"]["bits_per_byte"] = 7.125
    before["settings"] |= {"model": "elsewhere", "batch_size": 1}
    (tmp_path / "before.json").write_text(json.dumps(before))
    now = json.loads((folder / "eval.json").read_text())["next_byte"]["all"]["bits_per_byte"]
    assert f"| bits per byte | 7.125 | {now:.3f} |" in write_card(folder, "--before", str(tmp_path / "before.json"))

    before["settings"]["anchors"] = 21
    (tmp_path / "before.json").write_text(json.dumps(before))
    command = ["--evaluation", "eval.json", "--manifest", "manifest.json", "--recipe", "recipe.yaml"]
    command = [str(folder / part) if "." in part else part for part in command]
    more = ["--before", tmp_path / "before.json", "--output", tmp_path / "c.md"]
    assert "['anchors']" in refusal(model_card.main, *command, *more) and not (tmp_path / "c.md").exists()


def test_departures_name_what_differs_from_the_paper():
    lines = "\n".join(departures(RECIPE))
    assert "35% of blocks are draft-shaped" in lines and "65% of the block loss" in lines
    assert "weight 0.45 (paper: 1)" in lines and "Muon (learning rate 0.03)" in lines
    assert "random byte" not in lines and "at random" not in lines
    plain = {**RECIPE, "model": {"block_size": 5}, "optimizer": {"name": "adamw", "learning_rate": 0.001}}
    assert departures(plain) == ["- none"]


def test_markdown_survives_its_contents():
    assert markdown_table(["a", "b"], [["x|y", "1"]]).splitlines()[-1] == "| x\\|y | 1 |"
    assert indented("one\n```\n# two") == "    one\n    ```\n    # two"


def test_unusable_evaluations_are_refused(folder, tmp_path):
    evaluation = json.loads((folder / "eval.json").read_text())
    rest = ["--manifest", str(folder / "manifest.json"), "--recipe", str(folder / "recipe.yaml")]
    rest += ["--output", str(tmp_path / "README.md")]
    evaluation["settings"]["quick"] = True
    for content, message in ((json.dumps(evaluation), "--quick"), ('{"format": 0}', "format 0"), ("{", "is no JSON")):
        (tmp_path / "eval.json").write_text(content)
        assert message in refusal(model_card.main, "--evaluation", tmp_path / "eval.json", *rest)
    assert "no such file" in refusal(model_card.main, "--evaluation", tmp_path / "none.json", *rest)
    assert not (tmp_path / "README.md").exists()
