# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Products in each precision: they compute the product, and figures by hand."""

import json

import pytest
from fblt.benchmarks import products

from tests.cli import succeed


def test_a_quick_run_and_every_way_is_the_product_up_to_its_precision(tmp_path):
    output = tmp_path / "results.json"
    succeed(products.main, "--quick", "--threads", "1", "--output", output)
    found = json.loads(output.read_text())["figures"]
    assert set(found) == set(products.WAYS)
    assert found["float32"]["error"] == 0 < found["bfloat16"]["error"] < 0.01
    assert all(own["error"] < 0.03 for own in found.values())


def test_figures_by_hand():
    slow = {"error": 0.0, "seconds": {1: [2.0, 2.0, 4.0], 9: [4.0, 6.0, 4.0]}}
    fast = {"error": 0.1, "seconds": {1: [1.0, 1.0, 1.0], 9: [8.0, 8.0, 8.0]}}
    found = products.figures({"bfloat16": slow, "int8 weights, float32": fast}, 4_000_000_000)
    assert found["bfloat16"]["gb_per_second"] == pytest.approx(4.0)  # two bytes each in two seconds
    assert found["int8 weights, float32"]["gb_per_second"] == pytest.approx(4.0)
    assert found["int8 weights, float32"]["speed"] == {1: 2.0, 9: 0.5}
    assert found["bfloat16"]["of_one_row"] == {1: 1.0, 9: 2.0}
