# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Folders whose weights are not those of their config: refused by name, before memory is taken for what is missing."""

import json

import pytest
from safetensors.torch import load_file, save_file

from modeling_fblt import FBLTConfig, FBLTForCausalLM, loading_fblt
from tests.modeling.tiny import tiny_model


def test_weights_that_lack_much_are_refused_before_it_is_filled_in(tmp_path, monkeypatch):
    tiny_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lacking = {name: value for name, value in weights.items() if ".decoder." not in name}
    save_file(lacking, tmp_path / "model.safetensors", metadata={"format": "pt"})
    filled = []
    monkeypatch.setattr(FBLTForCausalLM, "_initialize_missing_keys", lambda *arguments: filled.append(arguments))
    monkeypatch.setattr(loading_fblt, "MOST_FILLED_IN", 10)
    with pytest.raises(ValueError, match="lacks .* such as 'model.decoder"):
        FBLTForCausalLM.from_pretrained(tmp_path)
    assert not filled


@pytest.mark.parametrize("text", ['"x"', "[]", "3", "null"])
def test_a_config_that_is_no_object_is_refused(tmp_path, text):
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text)
    for kind in (FBLTConfig, FBLTForCausalLM):
        with pytest.raises(ValueError, match="config.json.* no JSON object"):
            kind.from_pretrained(tmp_path)


def test_a_list_of_no_ends_is_refused(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"eos_token_id": []}))
    with pytest.raises(ValueError, match="eos_token_id"):
        FBLTForCausalLM.from_pretrained(tmp_path)
