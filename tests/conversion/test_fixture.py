# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The fixture's outputs, computed by Meta's code, hold for its conversion."""

import shutil
import subprocess
import sys

import pytest
import torch
from fblt.conversion.convert_blt import convert
from fblt.conversion.reference import compare
from safetensors.torch import load_file

from modeling_fblt.modeling_fblt import FBLTForCausalLM

from .checkpoints import FIXTURE, needs_fixture

pytestmark = needs_fixture
CASES = ("bos_only", "one_byte", "short", "utf8", "long", "xlong", "eos")
TEXTS = ("hello", "para", "empty", "pair")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The FBLT folder of each of Meta's layouts, and of the exported transformers layout."""
    from fblt.conversion.export_blt import export

    root = tmp_path_factory.mktemp("fixture")
    convert(str(FIXTURE), root / "training", validate=False)
    convert(str(FIXTURE / "hub_layout"), root / "meta", validate=False)
    export(root / "training", root / "blt", "transformers")
    convert(str(root / "blt"), root / "transformers", validate=False)
    return root


def load(folder):
    return FBLTForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_layouts_give_the_same_model(converted):
    a, b, c = (load_file(converted / name / "model.safetensors") for name in ("training", "meta", "transformers"))
    assert a.keys() == b.keys() == c.keys()
    assert all(torch.equal(a[key], b[key]) and torch.equal(a[key], c[key]) for key in a)


def test_every_reference_holds(converted):
    report = compare(load(converted / "training"), FIXTURE / "reference.safetensors")
    assert report.passed, report.table()
    done = {line.check for line in report.lines}
    for case in CASES:
        for suffix in ("", ".mpl8"):
            for what in ("entropies", "patch starts", "logits", "logits, given patches"):
                assert f"{case}{suffix} {what}" in done
    assert {"batch logits", "sweep logits", "sweep.mpl8 patch starts"} <= done
    for text in TEXTS:
        for suffix in ("", ".mpl8"):
            assert {f"gen.{text}{suffix} text, ar", f"gen.{text}{suffix} text, blt-s"} <= done


def test_the_loaders_window(tmp_path):
    convert(str(FIXTURE), tmp_path / "wide", entropy_window=512, validate=False)
    report = compare(load(tmp_path / "wide"), FIXTURE / "reference.safetensors")
    assert report.passed, report.table()
    # Windows of 64 and 512 differ on long rows, so their own patches are left out there.
    done = {line.check for line in report.lines}
    assert "long entropies" in done and "long logits, given patches" in done and "long logits" not in done


def test_the_hub_loads_it(converted, tmp_path):
    folder = tmp_path / "fblt"
    shutil.copytree(converted / "meta", folder)
    script = (
        "import sys, torch; from transformers import AutoModelForCausalLM, AutoTokenizer;"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True);"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True);"
        "ids = tokenizer('Hello, world', return_tensors='pt');"
        "assert model.generation_config.decoding == 'blt-s' and model.generation_config.eos_token_id == 2;"
        "print(model.generate(**ids, max_new_tokens=4, do_sample=False)[0, -4:].tolist())"
    )
    environment = {
        "PATH": "",
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ids = torch.tensor([[1, *(byte + 4 for byte in b"Hello, world")]])
    wanted = load(converted / "training").generate(ids, max_new_tokens=4, do_sample=False)[0, -4:].tolist()
    assert done.stdout.strip() == str(wanted)
