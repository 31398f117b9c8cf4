# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What quantisers and casts find: shapes that they take, and a patcher that stays in float32."""

import pytest
import torch
from torch import nn

from tests.modeling.tiny import random_rows, tiny_model


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
