# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Weights offloaded to the disk, whole or in part, give the same bytes; a model split over accelerators is refused."""

import pytest
import torch

from modeling_fblt.modeling_fblt import FBLTForCausalLM, FBLTModel
from tests.modeling.naive_decoding import ALL, NEVER, left_padded, prompts
from tests.modeling.tiny import random_rows, tiny_model
from tests.thorough import few

ENCODER = ("embed_tokens", "hash_embedding", "layers.0", "layers.1", "rotary_emb", "slot_projection", "pooling")
OTHERS = ("patcher", "global_transformer", "decoder")
MAPS = {
    "all": {"": "disk"},
    "networks": {"model.encoder": "cpu", **{f"model.{name}": "disk" for name in OTHERS}, "lm_head": "disk"},
    "modules": {
        **{f"model.encoder.{name}": ("disk", "cpu")[i % 2] for i, name in enumerate(ENCODER)},
        **{f"model.{name}": "cpu" for name in OTHERS},
        "lm_head": "disk",
    },
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("saved"), tiny_model(seed=3, dtype=torch.float32)
    model.save_pretrained(folder)
    return model, folder


@pytest.mark.parametrize("name", few(["all", "networks", "modules", "auto"], ["modules", "auto"]))
def test_an_offloaded_model_gives_the_same_logits_and_bytes(name, saved, tmp_path):
    model, folder = saved
    # "auto": layer by layer, as much as fits.
    device_map = {"device_map": MAPS[name]} if name in MAPS else {"device_map": "auto", "max_memory": {"cpu": 150_000}}
    loaded = FBLTForCausalLM.from_pretrained(folder, dtype=torch.float32, offload_folder=tmp_path, **device_map).eval()
    assert "disk" in loaded.hf_device_map.values() and any(p.is_meta for p in loaded.parameters())
    ids = random_rows(2, 40)
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
        assert torch.equal(loaded(ids, use_cache=False, labels=ids).loss, model(ids, use_cache=False, labels=ids).loss)
    assert torch.equal(loaded.patch(ids).patch_starts, model.patch(ids).patch_starts)
    for settings in (ALL[decoding] for decoding in ("ar", "blt-s", "blt-dv one step", "blt-d confidence")):
        arguments = {**left_padded(prompts()), "max_new_tokens": 8, "eos_token_id": NEVER, **settings}
        assert torch.equal(loaded.generate(**arguments), model.generate(**arguments))


@pytest.mark.parametrize("call", ["forward", "generate", "base"])
def test_a_model_split_over_accelerators_is_refused_by_name(call):
    model, ids = tiny_model(), random_rows(1, 9)
    split = {"model.encoder": 0, "model.decoder": 1, "lm_head": "cpu"}
    with pytest.raises(ValueError, match="device_map.*'0', '1'.*one device"):
        if call == "base":
            base: FBLTModel = model.model
            base.hf_device_map = split
            base(ids)
        model.hf_device_map = split
        model(ids) if call == "forward" else model.generate(ids, max_new_tokens=2)


def test_one_accelerator_beside_offloaded_weights_is_none_too_many():
    model, ids = tiny_model(), random_rows(1, 9)
    model.hf_device_map = {"model.encoder": 0, "model.decoder": "cpu", "lm_head": "disk"}
    assert model(ids).logits.shape == (1, 9, 261)
