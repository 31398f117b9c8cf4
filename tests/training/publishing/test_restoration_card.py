"""The card of a model that restores text: what was measured, the licences of the lines, metadata for the Hub."""

import json

import pytest
import yaml

pytest.importorskip("datasets")

from datasets import Dataset, DatasetDict  # noqa: E402
from fblt.training.evaluation.restoration import evaluate  # noqa: E402
from fblt.training.publishing import model_card  # noqa: E402
from fblt.training.publishing.model_card_sections import wrapped  # noqa: E402

from tests.cli import refusal, succeed  # noqa: E402

RECIPE = """seed: 3
data: data/restore
output: runs/restore
sequence_length: 416
damage: {plain: 0.75, none: 0.25}
model: {patching_mode: space, block_size: 5, distillation: 0.65}
optimizer: {name: adamw, learning_rate: 0.003}
trainer: {per_device_train_batch_size: 4, max_steps: 900}
"""
MANIFEST = {
    "languages": {"fr": {}, "de": {}},
    "transformations": ["lines kept once"],
    "sources": [
        {
            "description": "Manual pages",
            "license": "GPL-3+",
            "packages": [{"name": "manpages-fr"}],
            "splits": {"train": {"lines": 12, "bytes": 1_230_000}},
        }
    ],
}


@pytest.fixture(scope="module")
def folder(tiny_checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    columns = {"text": ["Été à la mer.", "Où est la clé?"], "language": ["fr", "de"]}
    splits = {split: Dataset.from_dict(columns) for split in ("train", "test", "test_prose")}
    DatasetDict(splits).save_to_disk(str(folder / "data"))
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    command = ["--model", str(tiny_checkpoint), "--data", str(folder / "data"), "--splits", "test"]
    succeed(evaluate.main, *command, "--damage", "plain", "--decoding", "ar", "--output", str(folder / "eval.json"))
    return folder


def arguments(folder, *more):
    files = [("--evaluation", "eval.json"), ("--manifest", "manifest.json"), ("--recipe", "recipe.yaml")]
    return [*(part for name, file in files for part in (name, folder / file)), "--output", folder / "README.md", *more]


def test_the_card_tells_what_was_measured(folder):
    succeed(model_card.main, *arguments(folder))
    text = (folder / "README.md").read_text()
    metadata = yaml.safe_load(text.split("---")[1])
    assert metadata["language"] == ["fr", "de"] and metadata["library_name"] == "transformers"
    found = json.loads((folder / "eval.json").read_text())["splits"]["test"]["plain"]
    words = found["methods"]["most frequent form"]["all"]["words_right"]
    assert f"{100 * words['value']:.1f} ± {100 * words['standard_error']:.1f}" in text
    for wanted in ("ete a la mer", "GPL-3+", "12 / 1.23", "plain 75%, none 25%", "seed 3", "fblt restore"):
        assert wanted in text
    assert "fblt restore --model" in text and "- before:" not in text
    assert text.count("<details>") == text.count("</details>") > 2


def test_a_model_below_the_baseline_is_said_to_be_no_good_and_a_better_one_is_not(folder):
    evaluation = json.loads((folder / "eval.json").read_text())
    methods = evaluation["splits"]["test"]["plain"]["methods"]
    for own, told in ((0.1, True), (0.9, False)):
        methods["ar"]["all"]["words_right"]["value"] = own
        methods["most frequent form"]["all"]["words_right"]["value"] = 0.5
        (folder / "changed.json").write_text(json.dumps(evaluation))
        succeed(model_card.main, *arguments(folder, "--evaluation", folder / "changed.json"))
        text = " ".join((folder / "README.md").read_text().split())
        assert ("`plain` 10.0 % against 50.0 %" in text) == told == ("Not good enough" in text)


def test_earlier_training_is_told_and_prose_is_wrapped(folder):
    succeed(model_card.main, *arguments(folder, "--earlier", "a word " * 40 + "the end"))
    lines = (folder / "README.md").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("- before: a word"))
    assert max(map(len, lines[start : start + 4])) <= 120 and lines[start + 1].startswith("  ")
    assert "  ".join(lines[start : start + 4]).count("word") == 40
    prose = "a word " * 40
    kept = "\n".join(["---", prose, "---", "| " + prose, "    " + prose, "```", prose, "```", "<p>" + prose])
    assert wrapped(kept) == kept
    assert " ".join(wrapped(prose + "\n\n" + prose).split()) == " ".join((prose * 2).split())


def test_an_earlier_state_is_refused(folder):
    assert "--before" in refusal(model_card.main, *arguments(folder, "--before", folder / "eval.json"))
