"""Exported checkpoints: bfloat16 weights, the patcher's in float32, code as files, all or nothing."""

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

from fblt.training.publishing.export import export, main  # noqa: E402
from fblt.training.running.progress import PROGRESS_FILE, progress_of, training_hours  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

from fblt.remote_code import differences  # noqa: E402
from tests.cli import refusal  # noqa: E402

LOAD = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
ids = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)("the patch", return_tensors="pt").input_ids
print(model.dtype, model.generate(ids, max_new_tokens=4, decoding="ar").tolist())
"""


CODE = Path(__file__).parents[3] / "modeling_fblt"


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_code_and_weights(tiny_checkpoint, tmp_path):
    output = tmp_path / "checkpoints" / "demo"
    megabytes = export(tiny_checkpoint, output, 20)
    assert differences(output, CODE) == {}
    assert not any(file.is_symlink() for file in output.iterdir())
    weights = load_file(output / "model.safetensors")
    for name, value in weights.items():
        # Patch boundaries must not depend on how finely entropies are rounded.
        assert value.dtype == (torch.float32 if name.startswith("model.patcher.") else torch.bfloat16), name
    assert megabytes == (output / "model.safetensors").stat().st_size / 1e6
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    assert [file.name for file in output.parent.iterdir()] == ["demo"]


@pytest.mark.slow
def test_an_export_loads_in_a_fresh_process(tiny_checkpoint, tmp_path):
    output = tmp_path / "demo"
    export(tiny_checkpoint, output, 20)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", LOAD, str(output)]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("torch.bfloat16 [[1, ")


def test_an_earlier_export_is_replaced_and_its_card_kept(tiny_checkpoint, tmp_path):
    output = tmp_path / "checkpoints" / "demo"
    output.mkdir(parents=True)
    (output / "README.md").write_text("the card")
    export(tiny_checkpoint, output, 20)
    (output / "old_fblt.py").symlink_to("../../modeling_fblt/old_fblt.py")
    (output / "model.safetensors").write_bytes(b"old")
    export(tiny_checkpoint, output, 20)
    assert (output / "README.md").read_text() == "the card"
    assert not (output / "old_fblt.py").is_symlink()
    assert load_file(output / "model.safetensors")
    assert [file.name for file in output.parent.iterdir()] == ["demo"]


def test_refusals_leave_everything_as_it_was(tiny_checkpoint, tmp_path):
    output = tmp_path / "checkpoints" / "demo"
    export(tiny_checkpoint, output, 20)
    before = contents(output)
    with pytest.raises(ValueError, match="--max-megabytes 0.001"):
        export(tiny_checkpoint, output, 0.001)
    assert contents(output) == before and [file.name for file in output.parent.iterdir()] == ["demo"]

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("irreplaceable")
    arguments = ["--source", str(tiny_checkpoint), "--output", str(tmp_path / "mine")]
    assert "is no earlier export" in refusal(main, *arguments)
    assert "holds no config.json" in refusal(main, "--source", tmp_path, "--output", output)


def test_progress_goes_with_the_weights(tiny_checkpoint, tmp_path):
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
    output = tmp_path / "checkpoints" / "demo"
    export(source, output, 20)
    assert json.loads((output / PROGRESS_FILE).read_text()) == progress_of(output) == progress_of(source)
    assert progress_of(output)["steps"] == 30
