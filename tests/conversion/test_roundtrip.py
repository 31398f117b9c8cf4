# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Out and back in gives the same bits, and what a BLT cannot express is refused by name or said to be left behind."""

import json

import pytest
import torch
from fblt.conversion.config_fields import ConfigError
from fblt.conversion.convert_blt import convert
from fblt.conversion.export_blt import export, main
from fblt.conversion.tensor_readers import ReadingError
from safetensors.torch import load_file, save_file

from modeling_fblt.configuration_fblt import FBLTConfig
from modeling_fblt.modeling_fblt import FBLTForCausalLM
from tests.thorough import few

from .checkpoints import entropy_state, meta_state, random_ids, run, write_training, write_transformers
from .test_open_checkpoint import HF_SHAPES, META_SHAPES

NETWORK = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def small_config(**changes) -> FBLTConfig:
    fields = {
        "patcher_config": NETWORK,
        "encoder_config": NETWORK | {"hash_vocab_size": 61, "sliding_window": 9},
        "global_config": NETWORK | {"hidden_size": 64, "intermediate_size": 96},
        "decoder_config": NETWORK | {"input": "encoder", "sliding_window": 9},
        "isolate_documents": False,
    }
    for name, value in changes.items():
        fields[name] = fields[name] | value if isinstance(value, dict) else value
    return FBLTConfig(**fields)


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["training", "meta"])
def test_meta_and_back(layout, dtype, tmp_path):
    states = write_training(tmp_path / "source", dtype=dtype)
    convert(str(tmp_path / "source"), tmp_path / "fblt", validate=False)
    export(tmp_path / "fblt", tmp_path / "back", layout, max_shard_size="60KB")
    convert(str(tmp_path / "back"), tmp_path / "again", validate=False)
    assert same(*(load_file(tmp_path / name / "model.safetensors") for name in ("fblt", "again")))
    if layout == "training":
        for name, state in (("", states[0]), ("entropy_model", states[1])):
            back = torch.load(tmp_path / "back" / name / "consolidated.pth", weights_only=True)["model"]
            assert same({key: value for key, value in state.items() if "rope" not in key}, back)


@pytest.mark.parametrize("shape", few(META_SHAPES, list(META_SHAPES)[::2]))
def test_meta_arguments_survive(shape, tmp_path):
    write_training(tmp_path / "source", **META_SHAPES[shape])
    convert(str(tmp_path / "source"), tmp_path / "fblt", validate=False)
    export(tmp_path / "fblt", tmp_path / "back", "training")
    convert(str(tmp_path / "back"), tmp_path / "again", validate=False)
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("fblt", "again"))
    assert first == second
    # And they are those that the tensors have.
    model = json.loads((tmp_path / "back" / "params.json").read_text())["model"]
    entropy = json.loads((tmp_path / "back" / "entropy_model" / "params.json").read_text())["entropy_model"]
    back = torch.load(tmp_path / "back" / "consolidated.pth", weights_only=True)["model"]
    made = {key: value.shape for key, value in meta_state(model).items() if "rope" not in key}
    assert made == {key: value.shape for key, value in back.items()}
    back = torch.load(tmp_path / "back" / "entropy_model" / "consolidated.pth", weights_only=True)["model"]
    made = {key: value.shape for key, value in entropy_state(entropy).items() if "rope" not in key}
    assert made == {key: value.shape for key, value in back.items()}


@pytest.mark.parametrize("shape", HF_SHAPES)
def test_transformers_and_back(shape, tmp_path):
    write_transformers(tmp_path / "source", **HF_SHAPES[shape])
    convert(str(tmp_path / "source"), tmp_path / "fblt", validate=False)
    export(tmp_path / "fblt", tmp_path / "back", "transformers")
    convert(str(tmp_path / "back"), tmp_path / "again", validate=False)
    assert same(*(load_file(tmp_path / name / "model.safetensors") for name in ("fblt", "again")))
    source, back = (load_file(tmp_path / name / "model.safetensors") for name in ("source", "back"))
    if shape != "all_encoder_layers":  # whose first pooling transformers overwrites
        assert same(source, back)


def test_a_trained_model_leaves_its_blocks_behind(tmp_path):
    model = FBLTForCausalLM(small_config(block_size=4, isolate_documents=True)).eval()
    model.save_pretrained(tmp_path / "fblt")
    arguments = ["--source", str(tmp_path / "fblt"), "--output", str(tmp_path / "blt"), "--layout", "meta"]
    result = run(main, arguments)
    said = result.stdout
    assert result.exit_code == 0
    assert "embed_tokens" in said and "blocks of 4 bytes" in said and "</s>" in said
    convert(str(tmp_path / "blt"), tmp_path / "again", validate=False)
    again, ids = FBLTForCausalLM.from_pretrained(tmp_path / "again").eval(), random_ids(30)
    assert torch.equal(model(ids, use_cache=False).logits, again(ids, use_cache=False).logits)


@pytest.mark.parametrize(
    ("layout", "field", "changes"),
    [
        ("meta", "decoder_config.input", {"decoder_config": {"input": "embedding"}}),
        ("meta", "patching_mode", {"patching_mode": "space"}),
        ("meta", "decoder_config.sliding_window", {"decoder_config": {"sliding_window": 8}}),
        ("training", "rope_theta", {"global_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e3}}}),
        ("training", "intermediate_size", {"global_config": {"intermediate_size": 1000}}),
        ("meta", "cross_attn_num_key_value_heads", {"encoder_config": {"cross_attn_num_key_value_heads": 2}}),
        ("transformers", "encoder_config.cross_attn_all_layers", {"encoder_config": {"cross_attn_all_layers": True}}),
        ("transformers", "encoder_config.hash_functions", {"encoder_config": {"hash_functions": 0}}),
        ("transformers", "global_config.head_dim", {"global_config": {"head_dim": 12}}),
        ("transformers", "decoder_config.cross_attn_num_heads", {"decoder_config": {"cross_attn_num_heads": 2}}),
    ],
)
def test_what_a_layout_cannot_express_is_refused_by_name(layout, field, changes, tmp_path):
    FBLTForCausalLM(small_config(**changes)).save_pretrained(tmp_path / "fblt")
    with pytest.raises(ConfigError, match=field.replace(".", r"\.")):
        export(tmp_path / "fblt", tmp_path / "out", layout)
    assert not (tmp_path / "out").exists()


def test_a_weight_that_is_no_float_is_not_exported(tmp_path):
    FBLTForCausalLM(small_config()).save_pretrained(tmp_path / "fblt")
    weights = load_file(tmp_path / "fblt" / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.float8_e4m3fn)
    save_file(weights, tmp_path / "fblt" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ReadingError, match="lm_head.weight: is of type float8_e4m3fn"):
        export(tmp_path / "fblt", tmp_path / "out", "training")
    assert not (tmp_path / "out").exists()
