# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What quantisers and casts find: shapes that they take, and a patcher that stays in float32."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from modeling_fblt.modeling_fblt import FBLTForCausalLM, FBLTModel
from tests.modeling.tiny import random_rows, tiny_config, tiny_model


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("everywhere", [False, True])
def test_no_linear_map_is_given_more_than_three_dimensions(slots, everywhere):
    # Quantised ones (bitsandbytes in 8 bits) take `[rows, width]` and `[batch, rows, width]` only.
    model = tiny_model(cross_attn_k=slots)
    model = tiny_model(
        cross_attn_k=slots,
        encoder_config={**model.config.encoder_config.to_dict(), "cross_attn_all_layers": everywhere},
        decoder_config={**model.config.decoder_config.to_dict(), "cross_attn_all_layers": everywhere},
    )
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(lambda _, args, name=name: seen.setdefault(name, set()).add(args[0].dim()))
    ids = random_rows(2, 30)
    model.generate(ids, max_new_tokens=8, decoding="blt-dv")
    model.train()(ids, labels=ids).loss.backward()
    assert {"model.encoder.pooling.q_proj", "model.decoder.readers.0.v_proj", "lm_head"} <= seen.keys()
    assert {name: dims for name, dims in seen.items() if max(dims) > 3} == {}


# --- the patcher's float32 ---

HALF = [torch.bfloat16, torch.float16]
CASTS = {
    "to": lambda model, dtype: model.to(dtype),
    "to device and dtype": lambda model, dtype: model.to("cpu", dtype),
    "method": lambda model, dtype: model.half() if dtype == torch.float16 else model.bfloat16(),
    "twice": lambda model, dtype: model.to(dtype).to(dtype),
    "from float64": lambda model, dtype: model.to(torch.float64).to(dtype),
}


def assert_only_the_patcher_is_in_float32(model, dtype: torch.dtype) -> None:
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if "patcher." in name else dtype), name
    for name, buffer in model.named_buffers():
        assert buffer.dtype == torch.float32 or not buffer.is_floating_point(), name


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("cast", CASTS)
def test_a_cast_leaves_the_patcher_in_float32_and_patches_where_they_were(cast, dtype):
    model, ids = tiny_model(dtype=torch.float32), random_rows(4, 200)
    before = model.patch(ids)
    CASTS[cast](model, dtype)
    assert_only_the_patcher_is_in_float32(model, dtype)
    after = model.patch(ids)
    assert torch.equal(after.entropies, before.entropies) and torch.equal(after.patch_starts, before.patch_starts)
    assert model.generate(ids[:1, :20], max_new_tokens=5).shape == (1, 25)
    # Wider casts reach it as any other module.
    assert {p.dtype for p in model.to(torch.float64).parameters()} == {torch.float64}


@pytest.mark.parametrize("dtype", HALF)
def test_a_model_cast_and_one_loaded_in_half_precision_are_the_same(dtype, tmp_path):
    model = tiny_model(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    loaded = FBLTForCausalLM.from_pretrained(tmp_path, dtype=dtype).eval()
    assert_only_the_patcher_is_in_float32(loaded, dtype)
    ids = random_rows(1, 900)  # so long that frequencies in half precision would show
    assert torch.equal(model.to(dtype)(ids).logits, loaded(ids).logits)


@pytest.mark.parametrize("dtype", HALF)
def test_a_model_made_in_half_precision_has_a_patcher_in_float32(dtype):
    AutoModelForCausalLM.register(type(tiny_config()), FBLTForCausalLM, exist_ok=True)
    model = AutoModelForCausalLM.from_config(tiny_config(), dtype=dtype)
    assert_only_the_patcher_is_in_float32(model, dtype)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("model_class", [FBLTForCausalLM, FBLTModel])
@pytest.mark.parametrize("own", [None, ["lm_head"]])
def test_quantisers_leave_the_patcher_out(model_class, own):
    # What every quantiser of transformers asks before it replaces a linear map.
    model = model_class(tiny_config())
    left_out = HfQuantizer.get_modules_to_not_convert(model, own, model._keep_in_fp32_modules)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    converted = [name for name in linear if should_convert_module(name, left_out)]
    assert any("patcher." in name for name in linear)
    assert not any("patcher." in name for name in converted)
    assert any("encoder.layers" in name for name in converted) and any("decoder.layers" in name for name in converted)
