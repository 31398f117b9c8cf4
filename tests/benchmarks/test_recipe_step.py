# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The recipe's step with its switches: figures by hand, and candidates that learn the same."""

import json

import pytest
from fblt.benchmarks import recipe_step

from tests.cli import succeed
from tests.thorough import long_run


def test_figures_by_hand():
    plain = [{"setup": 1.0, "seconds": [2.0, 4.0, 3.0], "losses": [4.0, 2.0]}] * 2
    other = [{"setup": 9.0, "seconds": [1.0, 1.0, 5.0], "losses": [4.0, 2.1]}, plain[0]]
    found = recipe_step.compare({recipe_step.PLAIN: plain, "other": other}, 600)
    assert found[recipe_step.PLAIN] == {"bytes_per_second": 200, "speed": 1.0, "setup": 1.0, "loss_difference": 0.0}
    assert found["other"]["bytes_per_second"] == 300  # of the median of 1 and 3 seconds
    assert found["other"]["speed"] == 2.0  # the median of 3 and 1, turn by turn
    assert found["other"]["setup"] == 5.0 and found["other"]["loss_difference"] == pytest.approx(0.05)


@long_run
@pytest.mark.slow
def test_switches_change_the_time_alone(tmp_path):
    output = tmp_path / "results.json"
    succeed(recipe_step.main, "--quick", "--threads", "1", "--dtype", "float32", "--output", output)
    results = json.loads(output.read_text())
    assert list(results["candidates"]) == list(recipe_step.QUICK)
    for found in results["candidates"].values():
        assert found["loss_difference"] < 1e-5 and found["bytes_per_second"] > 0
