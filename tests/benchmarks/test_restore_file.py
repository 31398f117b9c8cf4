# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Restoring a file through a kill: no line is lost or doubled, and each is what it is alone."""

import json

import pytest
import torch
from datasets import Dataset, DatasetDict
from fblt.benchmarks import restore_file
from fblt.benchmarks.random_models import geometry_tiny, random_model

from tests.cli import succeed
from tests.thorough import long_run


@long_run
@pytest.mark.slow
def test_a_quick_run(tmp_path):
    torch.manual_seed(0)
    random_model(geometry_tiny(block_size=6), torch.float32).save_pretrained(tmp_path / "model")
    lines = [f"Ligne numéro {number} à restaurer." for number in range(8)]
    DatasetDict({"test": Dataset.from_dict({"text": lines})}).save_to_disk(str(tmp_path / "lines"))
    arguments = ["--quick", "--model", tmp_path / "model", "--data", tmp_path / "lines", "--threads", "1"]
    succeed(restore_file.main, *arguments, "--output", tmp_path / "results.json")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["given"] == results["file"]["lines"] == 12
    assert results["equal"] == results["one by one"]["lines"] == 3
    assert 0 <= results["killed_after"] < results["batches"] == 6 and results["speed"] > 0
