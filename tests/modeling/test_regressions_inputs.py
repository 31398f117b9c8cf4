# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Inputs that were swallowed, or failed far from where they were given: each is used or refused by name."""

import pytest
import torch

from tests.modeling.tiny import tiny_model


@pytest.mark.parametrize("shape", [(1, 0), (0, 4)])
@pytest.mark.parametrize("call", ["forward", "uncached", "trained", "patch", "generate"])
def test_input_ids_without_a_byte_are_refused_by_name(call, shape):
    model, ids = tiny_model(), torch.ones(shape, dtype=torch.long)
    calls = {
        "forward": lambda: model(ids),
        "uncached": lambda: model(ids, use_cache=False),
        "trained": lambda: model.train()(ids, labels=ids),
        "patch": lambda: model.patch(ids),
        "generate": lambda: model.generate(ids, max_new_tokens=2),
    }
    with pytest.raises(ValueError, match="input_ids"):
        calls[call]()
