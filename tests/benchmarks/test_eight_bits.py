# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""8-bit products in a whole model: what is made 8-bit, and figures by hand."""

import copy
import json

import numpy as np
import pytest
import torch
from fblt.benchmarks import eight_bits
from fblt.training.evaluation.samples import EncodedDocument
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
    documents = [EncodedDocument("one", np.arange(60) * 7 % 256 + 4)]
    starts = eight_bits.patch_starts(model, documents)
    assert torch.equal(eight_bits.patch_starts(changed, documents), starts)
    both = eight_bits.quantize(changed, patcher=True)
    assert [name for name, module in both.named_modules() if type(module) is nn.Linear] == ["lm_head"]
    both.config.patching_threshold = -1.0  # all positions start a patch
    assert (eight_bits.patch_starts(both, documents) != starts).double().mean() > 0.2


def test_figures_by_hand():
    def turns(*seconds: float) -> list[dict]:
        return [{"seconds_per_byte": value, "bytes_per_iteration": 2.0} for value in seconds]

    seconds = {"ar": [(4.0, 8.0, 4.0), (2.0, 2.0, 2.0), (1.0, 1.0, 1.0)]}
    seconds["blt-s 8"] = [(2.0, 2.0, 2.0), (0.5, 0.5, 1.0), (1.0, 1.0, 1.0)]
    runs = {
        (mode, way): turns(*own)
        for mode, ways in seconds.items()
        for way, own in zip(eight_bits.WAYS, ways, strict=True)
    }
    found = eight_bits.figures(runs)
    assert list(found["ar"]["speed_to_bfloat16"].values()) == [1.0, 2.0, 4.0]
    assert list(found["blt-s 8"]["speed_to_ar"].values()) == [2.0, 4.0, 1.0]
    assert list(found["blt-s 8"]["seconds_per_byte"].values()) == [2.0, 0.5, 1.0]


@long_run
@pytest.mark.slow
def test_a_quick_run(tmp_path):
    output = tmp_path / "results.json"
    succeed(eight_bits.main, "--quick", "--threads", "1", "--output", output)
    results = json.loads(output.read_text())
    assert set(results["figures"]) == set(eight_bits.MODES)
    assert 0 < results["logit_errors"]["bfloat16"] < results["logit_errors"]["8 bits"] < 0.2
