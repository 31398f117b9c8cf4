# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The training benchmark: it compares equal things, and runs to its end."""

import json
from types import SimpleNamespace

import pytest
import torch
from fblt.benchmarks import training

from tests.thorough import long_run


def test_patch_lengths_are_counted_from_the_starts():
    starts = torch.rand(5, 41, generator=torch.Generator().manual_seed(0)) < 0.3
    starts[:, :2] = True
    starts[:2, -1] = torch.tensor([True, False])
    found = training.patch_lengths(starts)
    assert found.shape[1] == starts.sum(1).max()
    for row, lengths in zip(starts.tolist(), found.tolist(), strict=True):
        places = [i for i, start in enumerate(row) if start] + [40]
        expected = [after - before for before, after in zip(places, places[1:], strict=False)]
        assert lengths == expected + [0] * (len(lengths) - len(expected))


def test_a_step_leaves_no_gradients_and_steps_its_optimizer():
    layer = torch.nn.Linear(3, 1)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, input_ids):
            return SimpleNamespace(loss=self.layer(input_ids).sum())

    before = layer.weight.detach().clone()
    batch = {"input_ids": torch.ones(2, 3)}
    seconds = iter([1.0, 4.0, 5.0, 5.5])
    plain = training.build_step(Model(), batch, torch.float32, lambda: next(seconds))
    assert plain() == 3.0 and layer.weight.grad is None and torch.equal(layer.weight, before)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    assert training.build_step(Model(), batch, torch.float32, lambda: next(seconds), optimizer)() == 0.5
    assert torch.allclose(layer.weight, before - 0.2)


def test_peak_memory_grows_with_what_is_held():
    before = training.peak_bytes("cpu")
    held = torch.ones(64 * 2**20)
    after = training.peak_bytes("cpu")
    assert after >= before and after >= held.nbytes


@long_run
@pytest.mark.slow
def test_the_quick_run_measures_everything(tmp_path):
    output = tmp_path / "training.json"
    results = training.main(["--quick", "--output", str(output), "--dtype", "float32"], standalone_mode=False)
    stored = json.loads(output.read_text())
    assert stored["lengths"] == results["lengths"]
    assert [point["length"] for point in stored["lengths"]] == list(training.QUICK_LENGTHS)
    assert all(point["peak_bytes"] > point["step_bytes"] >= 0 for point in stored["lengths"])
    # The steps that are compared compute the same loss from the same weights.
    ours, theirs = stored["transformers"]["losses"]
    assert ours == pytest.approx(theirs, rel=1e-4)
    for key in ("blocks", "transformers"):
        assert stored[key]["ratios"]["blt"] == 1.0
        assert all(len(runs) == 2 for runs in stored[key]["runs"].values())
