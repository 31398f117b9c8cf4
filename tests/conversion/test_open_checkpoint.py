# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Every layout and shape converts to an FBLT that computes what the source computes."""

import json

import pytest
import torch
from fblt.conversion.convert_blt import convert, main
from fblt.conversion.validate import main as validate_main
from safetensors.torch import load_file, save_file

from modeling_fblt.modeling_fblt import FBLTForCausalLM
from tests.thorough import few

from . import naive_blt
from .checkpoints import (
    ENTROPY,
    MODEL,
    PATCHING,
    random_ids,
    run,
    write_hub,
    write_json,
    write_training,
    write_transformers,
)

META_SHAPES = {
    "released": {},
    "grouped": {"model": {"n_kv_heads": 2, "n_kv_heads_global": 1}, "entropy": {"n_kv_heads": 2}},
    "two_functions": {"model": {"encoder_hash_byte_group_nb_functions": 2, "encoder_hash_byte_group_size": [3, 6]}},
    "no_hashes": {"model": {"encoder_hash_byte_group_size": None}},
    "all_encoder_layers": {"model": {"n_layers_local_encoder": 3, "cross_attn_all_layers_encoder": True}},
    "last_encoder_layer": {"model": {"n_layers_local_encoder": 2}},
    "first_decoder_layer": {"model": {"cross_attn_all_layers_decoder": False, "n_layers_local_decoder": 3}},
    "four_slots": {"model": {"cross_attn_k": 4, "cross_attn_nheads": 2}},  # and a projection: 4 * 32 != 64
    "wide_heads": {"model": {"head_dim": 12}, "entropy": {"head_dim": 10}},
    "feed_forward": {"model": {"ffn_dim_multiplier": 1.3, "multiple_of": 8}, "entropy": {"multiple_of": 24}},
    "norms_and_angles": {"model": {"norm_eps": 1e-2, "rope_theta": 1e3}, "entropy": {"norm_eps": 1e-3}},
    "short_patches": {"patching": {"max_patch_length": 3}},
}


def load(folder):
    return FBLTForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def row_with_documents():
    ids = random_ids(40)[0]
    ids[[13, 14, 30]] = torch.tensor([2, 1, 2])
    return ids


@pytest.mark.parametrize("shape", few(META_SHAPES, ["released", *list(META_SHAPES)[1::2]]))
def test_meta_shapes_compute_what_blt_computes(shape, tmp_path):
    changes = META_SHAPES[shape]
    state, entropy = write_training(tmp_path / "source", **changes)
    convert(str(tmp_path / "source"), tmp_path / "fblt", validate=False)
    model, ids = load(tmp_path / "fblt"), row_with_documents()
    patching = PATCHING | changes.get("patching", {})
    starts, entropies = naive_blt.patch_starts(
        entropy, ENTROPY | changes.get("entropy", {}), ids, patching["threshold"], patching["max_patch_length"]
    )
    assert 5 < starts.sum() < 40
    patched = model.patch(ids[None])
    torch.testing.assert_close(patched.entropies[0], entropies, atol=1e-4, rtol=0)
    assert torch.equal(patched.patch_starts[0], starts)
    expected = naive_blt.logits(state, MODEL | changes.get("model", {}), ids, starts)
    found = model(ids[None], use_cache=False).logits[0, :, :260]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    # Fed byte by byte, with the cache, it computes the same.
    cache, steps = None, []
    for i in range(len(ids)):
        output = model(ids[None, i : i + 1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        steps.append(output.logits[0, :, :260])
    torch.testing.assert_close(torch.cat(steps), expected, atol=1e-4, rtol=0)


def test_layouts_give_the_same_model(tmp_path):
    write_training(tmp_path / "training")
    write_hub(tmp_path / "hub", tmp_path / "training")
    write_hub(tmp_path / "apart", tmp_path / "training", tmp_path / "entropy_repository")
    convert(str(tmp_path / "training"), tmp_path / "a", validate=False)
    convert(str(tmp_path / "hub"), tmp_path / "b", validate=False)
    convert(str(tmp_path / "apart"), tmp_path / "c", entropy=str(tmp_path / "entropy_repository"), validate=False)
    a, *others = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    for other in others:
        assert a.keys() == other.keys() and all(torch.equal(a[key], other[key]) for key in a)
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in "abc"]
    assert configs[0] == configs[1] == configs[2]


def test_sharded_sources_and_outputs(tmp_path):
    write_training(tmp_path / "training")
    write_hub(tmp_path / "hub", tmp_path / "training")
    state = load_file(tmp_path / "hub" / "model.safetensors")
    names = {key: f"model-{i % 3}.safetensors" for i, key in enumerate(state)}
    for name in set(names.values()):
        save_file({key: state[key] for key in state if names[key] == name}, tmp_path / "hub" / name)
    write_json(tmp_path / "hub" / "model.safetensors.index.json", {"weight_map": names})
    (tmp_path / "hub" / "model.safetensors").unlink()
    convert(str(tmp_path / "hub"), tmp_path / "sharded", max_shard_size="60KB", validate=False)
    convert(str(tmp_path / "training"), tmp_path / "single", validate=False)
    shards = list((tmp_path / "sharded").glob("model-*.safetensors"))
    assert len(shards) > 2 and all(shard.stat().st_size < 75_000 for shard in shards)
    a, b = (load(tmp_path / name).state_dict() for name in ("sharded", "single"))
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_dtype_rounds_once(dtype, tmp_path):
    state, _ = write_training(tmp_path / "source")
    assert run(main, ["--source", f"{tmp_path}/source", "--output", f"{tmp_path}/out", "--dtype", dtype]).exit_code == 0
    weights = load_file(tmp_path / "out" / "model.safetensors")
    wanted = state["local_decoder.output.weight"].to(getattr(torch, dtype))
    assert torch.equal(weights["lm_head.weight"][:260], wanted)
    assert FBLTForCausalLM.from_pretrained(tmp_path / "out").dtype == getattr(torch, dtype)


def test_entropy_window(tmp_path):
    write_training(tmp_path / "own", entropy={"sliding_window": 8})
    write_training(tmp_path / "unstated", entropy={"sliding_window": None})
    for name, given, window in (("own", None, 8), ("own", 512, 512), ("unstated", None, 512)):
        output = tmp_path / f"{name}-{given}"
        convert(str(tmp_path / name), output, entropy_window=given, validate=False)
        assert json.loads((output / "config.json").read_text())["patcher_config"]["sliding_window"] == window


def test_the_loaders_threshold_wins(tmp_path):
    write_training(tmp_path / "source", model={"patching_threshold": 1.0}, patching={"threshold": 2.0})
    convert(str(tmp_path / "source"), tmp_path / "out", validate=False)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["patching_threshold"] == 2.0


HF_SHAPES = {
    "plain": {},
    "grouped": {
        "encoder_config": {"num_key_value_heads": 2},
        "decoder_config": {"num_key_value_heads": 1},
        "global_config": {"num_key_value_heads": 2},
        "patcher_config": {"num_key_value_heads": 2},
    },
    "two_functions_projected": {
        "encoder_hash_byte_group_nb_functions": 2,
        "global_config": {"hidden_size": 48},
        "decoder_config": {"hidden_size_global": 48},
    },
    "all_encoder_layers": {"encoder_config": {"num_hidden_layers": 2, "cross_attn_all_layers": True}},
    "one_cross_layer_each": {
        "encoder_config": {"cross_attn_all_layers": True},
        "decoder_config": {"cross_attn_all_layers": False},
        "cross_attn_k": 3,
        "local_attention_window_len": None,
    },
}


@pytest.mark.parametrize("shape", HF_SHAPES)
def test_transformers_shapes_compute_what_transformers_computes(shape, tmp_path):
    oracle = write_transformers(tmp_path / "source", **HF_SHAPES[shape])
    convert(str(tmp_path / "source"), tmp_path / "fblt", validate=False)
    model, ids = load(tmp_path / "fblt"), random_ids(40, seed=3)
    with torch.no_grad():
        expected = oracle(ids, use_cache=False).logits
    found = model(ids, use_cache=False).logits
    assert 5 < model.patch(ids).patch_starts.sum() < 40
    torch.testing.assert_close(found[..., :260], expected, atol=1e-4, rtol=0)


def test_validation_passes_and_catches(tmp_path):
    write_transformers(tmp_path / "source")
    convert(str(tmp_path / "source"), tmp_path / "fblt")
    assert "greedy text" in (tmp_path / "fblt" / "README.md").read_text()
    arguments = ["--source", str(tmp_path / "source"), "--converted", str(tmp_path / "fblt")]
    (tmp_path / "prompts.txt").write_text("One prompt.\n")
    assert run(validate_main, [*arguments, "--prompts", str(tmp_path / "prompts.txt")]).exit_code == 0
    weights = load_file(tmp_path / "fblt" / "model.safetensors")
    weights["lm_head.weight"][70] += 0.01
    save_file(weights, tmp_path / "fblt" / "model.safetensors", {"format": "pt"})
    result = run(validate_main, arguments)
    assert result.exit_code == 1 and "FAIL" in result.stdout
