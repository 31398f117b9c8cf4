# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Property 8: a saved folder is complete, and a process that does not know this repository loads the same model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling_fblt.modeling_fblt import FBLTForCausalLM, FBLTModel
from modeling_fblt.tokenization_fblt import build_tokenizer
from tests.modeling.tiny import BLOCK, random_rows, tiny_model

pytestmark = pytest.mark.contract

# Run elsewhere: loads through the Auto classes, and writes down what it sees.
LOAD = """
import json, sys
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
folder, inputs = sys.argv[1], torch.load(sys.argv[2])
trust = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(folder, **trust)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, **trust).eval()
base = AutoModel.from_pretrained(folder, dtype=torch.float64, **trust).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
assert "modeling_fblt" not in sys.modules, "the repository is on the path"
text = tokenizer(["Fast", "B"], return_tensors="pt", padding=True)
with torch.no_grad():
    logits = model(inputs).logits
    hidden = base(inputs).last_hidden_state
written = {d: model.generate(**text, decoding=d, max_new_tokens=9) for d in ("ar", "blt-s", "blt-d", "blt-dv")}
torch.save({
    "logits": logits, "hidden": hidden, "written": written, "default": model.generate(**text, max_new_tokens=9),
    "ids": text["input_ids"], "starts": base.patch(inputs).patch_starts,
}, sys.argv[3])
print(json.dumps({
    "classes": [type(x).__name__ for x in (config, model, base)],
    "decoding": model.generation_config.decoding, "block_size": model.generation_config.block_size,
    "threshold": config.patching_threshold,
}))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model, and the folder it was saved to."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    model = tiny_model(seed=3)
    model.save_pretrained(folder)
    return model, folder


def run_elsewhere(folder, tmp_path, inputs: torch.Tensor) -> tuple[dict, dict]:
    torch.save(inputs, tmp_path / "inputs.pt")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    # A modules cache of its own, so that code cached by an earlier run proves nothing.
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOAD, str(folder), str(tmp_path / "inputs.pt"), str(tmp_path / "seen.pt")]
    run = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1]), torch.load(tmp_path / "seen.pt")


def test_a_saved_folder_is_complete(saved):
    names = {path.name for path in saved[1].iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors"} <= names
    assert {"tokenizer.json", "tokenizer_config.json"} <= names
    package = os.path.dirname(sys.modules[FBLTForCausalLM.__module__].__file__)
    code = {name for name in os.listdir(package) if name.endswith("_fblt.py")}
    # All of the code: also the tokenizer's, which is needed to save the model again.
    assert code <= names
    auto_map = json.loads((saved[1] / "config.json").read_text())["auto_map"]
    assert set(auto_map) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}


def test_a_fresh_process_gives_the_same_logits_and_bytes(saved, tmp_path):
    model, folder = saved
    inputs = random_rows(2, 40)
    told, seen = run_elsewhere(folder, tmp_path, inputs)
    assert told["classes"] == ["FBLTConfig", "FBLTForCausalLM", "FBLTModel"]
    assert told["decoding"] == "blt-dv" and told["block_size"] == model.config.block_size
    assert told["threshold"] == model.config.patching_threshold
    with torch.no_grad():
        torch.testing.assert_close(seen["logits"], model(inputs).logits, atol=1e-12, rtol=0)
        torch.testing.assert_close(seen["hidden"], model.model(inputs).last_hidden_state, atol=1e-12, rtol=0)
    assert torch.equal(seen["starts"], model.patch(inputs).patch_starts)
    text = build_tokenizer()(["Fast", "B"], return_tensors="pt", padding=True)
    assert torch.equal(seen["ids"], text["input_ids"])
    for decoding, sequences in seen["written"].items():
        assert torch.equal(sequences, model.generate(**text, decoding=decoding, max_new_tokens=9))
    assert torch.equal(seen["default"], seen["written"]["blt-dv"])


def test_a_model_loaded_without_the_auto_classes_is_the_same(saved, tmp_path):
    model, folder = saved
    loaded = FBLTForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    loaded.save_pretrained(tmp_path)
    assert {path.name for path in folder.iterdir()} == {path.name for path in tmp_path.iterdir()}


def test_settings_of_generate_are_kept(saved, tmp_path):
    model = tiny_model(seed=3)
    model.generation_config.decoding = "blt-s"
    model.generation_config.draft_length = 3
    model.save_pretrained(tmp_path)
    loaded = FBLTForCausalLM.from_pretrained(tmp_path)
    assert (loaded.generation_config.decoding, loaded.generation_config.draft_length) == ("blt-s", 3)
    assert loaded.generation_config.block_size == model.config.block_size


def test_readers_of_a_single_slot_are_frozen_where_nothing_reads_them(tmp_path):
    tiny_model(dtype=torch.float32, cross_attn_k=1).save_pretrained(tmp_path)
    model = FBLTForCausalLM.from_pretrained(tmp_path).train()
    frozen = {n.split(".")[-2] for n, p in model.named_parameters() if "readers." in n and not p.requires_grad}
    assert frozen == {"query_norm", "q_proj", "k_proj"}


def test_a_loaded_patcher_is_frozen(tmp_path):
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path)
    for model in (FBLTForCausalLM.from_pretrained(tmp_path), FBLTModel.from_pretrained(tmp_path)):
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad != ("patcher." in name), name


# --- weights that are not those of their config ---


def edited(folder: Path, part: str, **fields: object) -> Path:
    """Changes fields in a saved config."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config[part] if part else config).update(fields)
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("part", ["patcher_config", "encoder_config", "global_config", "decoder_config"])
@pytest.mark.parametrize("layers", [1, 3])
def test_weights_of_more_or_fewer_layers_are_refused(part, layers, tmp_path):
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path)
    edited(tmp_path, part, num_hidden_layers=layers)
    for kind in (FBLTForCausalLM, FBLTModel):
        with pytest.raises(ValueError, match=r"`pretrained_model_name_or_path`.*layers"):
            kind.from_pretrained(tmp_path)


def test_weights_without_a_head_or_of_other_shapes_are_refused(tmp_path):
    model = tiny_model(dtype=torch.float32)
    model.model.save_pretrained(tmp_path / "base")
    assert isinstance(FBLTModel.from_pretrained(tmp_path / "base"), FBLTModel)
    with pytest.raises(ValueError, match=r"`pretrained_model_name_or_path`.*'lm_head.weight'"):
        FBLTForCausalLM.from_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "whole")
    assert isinstance(FBLTModel.from_pretrained(tmp_path / "whole"), FBLTModel)
    edited(tmp_path / "whole", "global_config", intermediate_size=50)
    with pytest.raises(ValueError, match=r"`pretrained_model_name_or_path`.*shapes"):
        FBLTForCausalLM.from_pretrained(tmp_path / "whole")


def test_longer_blocks_than_weights_were_trained_for_are_refused(tmp_path):
    tiny_model(dtype=torch.float32).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"`block_size` is {BLOCK + 1}.*trained for blocks of {BLOCK}"):
        FBLTForCausalLM.from_pretrained(tmp_path, block_size=BLOCK + 1)
    assert FBLTForCausalLM.from_pretrained(tmp_path, block_size=BLOCK - 1).config.block_size == BLOCK - 1
    with pytest.raises(ValueError, match="`patching_threshold`"):
        FBLTForCausalLM.from_pretrained(tmp_path, patching_threshold="x")
