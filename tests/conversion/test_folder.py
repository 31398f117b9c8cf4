# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""A converted folder holds what `save_pretrained` writes, and every Auto class loads it where nothing is installed."""

import json
import subprocess
import sys

import pytest
from fblt.conversion.convert_blt import convert

from modeling_fblt import FBLTConfig, FBLTForCausalLM

from .checkpoints import write_training

SCRIPT = """
import sys, torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
base = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
ids = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)("Hello", return_tensors="pt").input_ids
assert type(base).__name__ == "FBLTModel", type(base)
hidden = base(ids, use_cache=False).last_hidden_state
assert torch.equal(model.model(ids, use_cache=False).last_hidden_state, hidden)
assert model.generation_config.eos_token_id == 2 and model.generation_config.decoding == "blt-s"
"""


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    root = tmp_path_factory.mktemp("converted")
    write_training(root / "source")
    convert(str(root / "source"), root / "fblt", validate=False)
    return root / "fblt"


def test_every_auto_class_loads_it_in_a_fresh_process(converted, tmp_path):
    environment = {"PATH": "", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(converted)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_it_is_what_save_pretrained_writes(converted, tmp_path):
    FBLTForCausalLM(FBLTConfig.from_pretrained(converted)).save_pretrained(tmp_path / "saved")
    files = [{file.name for file in folder.iterdir()} for folder in (converted, tmp_path / "saved")]
    assert files[0] - files[1] == {"README.md"} and not files[1] - files[0]
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        mine, theirs = (json.loads((folder / name).read_text()) for folder in (converted, tmp_path / "saved"))
        assert mine == theirs, name
