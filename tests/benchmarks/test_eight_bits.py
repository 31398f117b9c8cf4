# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""8-bit products in a whole model: what is made 8-bit, and figures by hand."""

import copy
import json

import pytest
import torch
from fblt.benchmarks import eight_bits
from torch import nn

from tests.cli import succeed
from tests.modeling.tiny import tiny_model
from tests.thorough import long_run


def test_all_maps_but_the_patchers_are_eight_bit_and_logits_stay_near():
    model = tiny_model(dtype=torch.float32)
    changed = eight_bits.quantize(copy.deepcopy(model))
    plain = [name for name, module in changed.named_modules() if type(module) is nn.Linear]
    assert {name.removeprefix("model.").split(".")[0] for name in plain} == {"lm_head", "patcher"}
    ids = torch.randint(4, 260, (1, 40), generator=torch.Generator().manual_seed(0))
    exact = model(ids, use_cache=False).logits
    assert 0 < eight_bits.logit_error(changed, exact, ids) < 0.25
    assert torch.equal(changed.patch(ids).patch_starts, model.patch(ids).patch_starts)


def test_figures_by_hand():
    def turns(*seconds: float) -> list[dict]:
        return [{"seconds_per_byte": value, "bytes_per_iteration": 2.0} for value in seconds]

    found = eight_bits.figures(
        {
            ("ar", "bfloat16"): turns(4.0, 8.0, 4.0),
            ("ar", "8 bits"): turns(2.0, 2.0, 2.0),
            ("blt-s 8", "bfloat16"): turns(2.0, 2.0, 2.0),
            ("blt-s 8", "8 bits"): turns(0.5, 0.5, 1.0),
        }
    )
    assert found["ar"]["speed_to_bfloat16"] == 2.0
    assert found["blt-s 8"]["speed_to_ar"] == {"bfloat16": 2.0, "8 bits": pytest.approx(4.0)}
    assert found["blt-s 8"]["seconds_per_byte"] == {"bfloat16": 2.0, "8 bits": 0.5}


@long_run
@pytest.mark.slow
def test_a_quick_run(tmp_path):
    output = tmp_path / "results.json"
    succeed(eight_bits.main, "--quick", "--threads", "1", "--output", output)
    results = json.loads(output.read_text())
    assert set(results["figures"]) == set(eight_bits.MODES)
    assert 0 < results["logit_errors"]["bfloat16"] < results["logit_errors"]["8 bits"] < 0.2
