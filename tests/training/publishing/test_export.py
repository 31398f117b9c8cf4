"""Exported checkpoints: bfloat16 weights, the patcher's in float32, code as relative links, all or nothing."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("datasets")

from fblt.training.publishing.export import REPOSITORY, export, main  # noqa: E402
from fblt.training.running.progress import PROGRESS_FILE, progress_of, training_hours  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from tests.cli import refusal  # noqa: E402

LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
ids = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)("the patch", return_tensors="pt").input_ids
print(model.dtype, model.generate(ids, max_new_tokens=4, decoding="ar").tolist())
"""


@pytest.fixture
def repository(tmp_path) -> Path:
    """A repository that holds the code once."""
    folder = tmp_path / "repository"
    shutil.copytree(
        REPOSITORY / "modeling_fblt", folder / "modeling_fblt", ignore=shutil.ignore_patterns("__pycache__")
    )
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_links_are_relative_and_resolve(tiny_checkpoint, repository):
    output = repository / "checkpoints" / "demo"
    megabytes = export(tiny_checkpoint, output, 20, repository)
    code = sorted(file.name for file in output.glob("*.py"))
    assert "modeling_fblt.py" in code and "forward_steps_fblt.py" in code
    for name in code:
        target = os.readlink(output / name)
        assert target == f"../../modeling_fblt/{name}"
        assert (output / name).read_bytes() == (repository / "modeling_fblt" / name).read_bytes()
    weights = load_file(output / "model.safetensors")
    for name, value in weights.items():
        # Patch boundaries must not depend on how finely entropies are rounded.
        assert value.dtype == (torch.float32 if name.startswith("model.patcher.") else torch.bfloat16), name
    assert megabytes == (output / "model.safetensors").stat().st_size / 1e6
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    assert [file.name for file in output.parent.iterdir()] == ["demo"]
    # A clone elsewhere has the same links, and they still hold.
    clone = repository.with_name("clone")
    shutil.copytree(repository, clone, symlinks=True)
    assert contents(clone / "checkpoints" / "demo") == contents(output)


@pytest.mark.slow
def test_a_copy_loads_in_a_fresh_process(tiny_checkpoint, repository, tmp_path):
    output = repository / "checkpoints" / "demo"
    export(tiny_checkpoint, output, 20, repository)
    copy = tmp_path / "elsewhere"
    shutil.copytree(output, copy)  # follows links
    assert not any(file.is_symlink() for file in copy.iterdir())
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", LOAD, str(copy)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("torch.bfloat16 [[1, ")


def test_outside_the_repository_the_code_is_copied(tiny_checkpoint, repository, tmp_path):
    export(tiny_checkpoint, tmp_path / "demo", 20, repository)
    assert not any(file.is_symlink() for file in (tmp_path / "demo").iterdir())
    assert (tmp_path / "demo" / "modeling_fblt.py").is_file()


def test_an_earlier_export_is_replaced_and_its_card_kept(tiny_checkpoint, repository):
    output = repository / "checkpoints" / "demo"
    output.mkdir(parents=True)
    (output / "README.md").write_text("the card")
    export(tiny_checkpoint, output, 20, repository)
    (output / "old_fblt.py").symlink_to("../../modeling_fblt/old_fblt.py")
    (output / "model.safetensors").write_bytes(b"old")
    export(tiny_checkpoint, output, 20, repository)
    assert (output / "README.md").read_text() == "the card"
    assert not (output / "old_fblt.py").is_symlink()
    assert load_file(output / "model.safetensors")
    assert [file.name for file in output.parent.iterdir()] == ["demo"]


def test_refusals_leave_everything_as_it_was(tiny_checkpoint, repository, tmp_path):
    output = repository / "checkpoints" / "demo"
    export(tiny_checkpoint, output, 20, repository)
    before = contents(output)
    with pytest.raises(ValueError, match="--max-megabytes 0.001"):
        export(tiny_checkpoint, output, 0.001, repository)
    (repository / "modeling_fblt" / "forward_steps_fblt.py").write_text("# changed\n")
    with pytest.raises(ValueError, match="forward_steps_fblt.py is not that of modeling_fblt"):
        export(tiny_checkpoint, output, 20, repository)
    shutil.copyfile(
        REPOSITORY / "modeling_fblt" / "forward_steps_fblt.py", repository / "modeling_fblt" / "forward_steps_fblt.py"
    )
    assert contents(output) == before and [file.name for file in output.parent.iterdir()] == ["demo"]

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("irreplaceable")
    arguments = ["--source", str(tiny_checkpoint), "--output", str(tmp_path / "mine")]
    assert "is no earlier export" in refusal(main, *arguments)
    assert "holds no config.json" in refusal(main, "--source", tmp_path, "--output", output)


def test_progress_goes_with_the_weights(tiny_checkpoint, repository, tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    run = tmp_path / "run"
    source = run / "checkpoint-30"
    shutil.copytree(tiny_checkpoint, source)
    (source / "trainer_state.json").write_text(json.dumps({"global_step": 30}))
    assert progress_of(source) == {"steps": 30, "hours": None}
    # Two sessions: 100 s up to step 20, then 50 s to step 30 and 1000 s beyond.
    for name, steps in (("one", {0: 0, 20: 100}), ("two", {20: 0, 30: 50, 40: 1050})):
        writer = tensorboard.SummaryWriter(str(run / "runs" / name))
        start = time.time()  # the file itself begins now
        for step, second in steps.items():
            writer.add_scalar("train/loss", 1.0, step, walltime=start + second)
        writer.close()
    for steps, seconds in ((20, 100), (30, 150), (40, 1150)):
        assert training_hours(run, steps) == pytest.approx(seconds / 3600, abs=5 / 3600)
    output = repository / "checkpoints" / "demo"
    export(source, output, 20, repository)
    assert json.loads((output / PROGRESS_FILE).read_text()) == progress_of(output) == progress_of(source)
    assert progress_of(output)["steps"] == 30
