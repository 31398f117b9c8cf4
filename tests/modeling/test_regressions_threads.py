# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What other threads of the process see while a model runs: no setting of torch's is switched."""

import pytest
import torch

from tests.modeling.naive_decoding import ALL
from tests.modeling.tiny import random_rows, tiny_model


def settings() -> dict:
    return {
        "mkldnn": torch.backends.mkldnn.enabled,
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "flash": torch.backends.cuda.flash_sdp_enabled(),
    }


@pytest.mark.parametrize("name", ["ar", "blt-s", "blt-dv one step", "blt-d confidence"])
def test_a_bfloat16_model_switches_no_setting_of_the_process(name):
    model, before, seen = tiny_model(dtype=torch.bfloat16), settings(), []
    for module in model.modules():
        module.register_forward_pre_hook(lambda *_: seen.append(settings()))
    model.generate(random_rows(1, 12), max_new_tokens=6, **ALL[name])
    assert seen and all(at == before for at in seen)
