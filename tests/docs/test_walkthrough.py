"""docs/training.md, run as it stands: its recipe (with fewer steps, a smaller model), its commands, its Python.

The README's commands, which are the same or less, run after them.
"""

import pytest
import yaml
from click.testing import CliRunner

from fblt.cli import main

from .blocks import blocks, commands

PAGE = "docs/training.md"
TINY = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
SHRUNKEN = {"evaluate": ["--anchors", "8", "--free-prompts", "1", "--free-bytes", "8", "--exact-prompts", "1"]}


def shrink(recipe: dict) -> dict:
    """The same recipe for seconds instead of an hour: sizes and lengths of the run, nothing else."""
    for part, sizes in recipe["model"].items():
        if part.endswith("_config"):
            sizes |= TINY
    recipe["sequence_length"] = recipe["patcher"]["sequence_length"] = 96
    recipe["evaluation_drafts"] = 8
    for section in (recipe, recipe["patcher"]):
        section["trainer"] |= {"max_steps": 3, "disable_tqdm": True, "per_device_train_batch_size": 2}
    recipe["trainer"] |= {"eval_steps": 3, "save_steps": 3, "logging_steps": 1}
    return recipe


@pytest.mark.slow
def test_every_step_of_the_walkthrough(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    for number in range(8):
        (tmp_path / "text" / f"{number}.txt").write_text(
            f"Chapter {number}. It was a cold evening, and she wrote. " * 9
        )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(shrink(yaml.safe_load(blocks(PAGE, "yaml")[0]))))
    steps = commands(PAGE)
    assert [step for step in commands("README.md") if step[0].startswith("train")] == steps[:2]
    for arguments in steps + [step for step in commands("README.md") if step not in steps]:
        result = CliRunner().invoke(main, arguments + SHRUNKEN.get(arguments[0], []), catch_exceptions=False)
        assert result.exit_code == 0, (arguments, result.output)
    for code in blocks(PAGE, "python"):
        exec(compile(code.replace("max_new_tokens=200", "max_new_tokens=8"), PAGE, "exec"), {})
    assert "Once upon a time" in capsys.readouterr().out
    assert (tmp_path / "my-model" / "model.safetensors").is_file() and (tmp_path / "run" / "evaluation.json").is_file()
