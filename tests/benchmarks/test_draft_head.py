# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The benchmark of draft heads at its smallest sizes: every variant differs, and leading bytes are counted right."""

import json

import pytest
import torch
from fblt.benchmarks import draft_head
from fblt.training.running.draft_head import BlockStates

from modeling_fblt import FBLTConfig, FBLTForCausalLM
from tests.cli import succeed
from tests.modeling.tiny import BLOCK, tiny_model
from tests.training.runs import MODEL, write_data


def test_variants_are_trained_and_judged(tmp_path):
    torch.manual_seed(0)
    FBLTForCausalLM(FBLTConfig(**MODEL, patching_threshold=5.5)).save_pretrained(tmp_path / "model")
    write_data(tmp_path / "data", rows=80)
    output = tmp_path / "results.json"
    arguments = ["--quick", "--model", tmp_path / "model", "--data", tmp_path / "data", "--output", output]
    succeed(draft_head.main, *arguments)
    results = json.loads(output.read_text())
    assert set(results["variants"]) == set(draft_head.VARIANTS) and results["base"]["ar"]["mean"] >= 0
    sizes = [row["parameters"] for row in results["variants"].values()]
    assert sizes[0] == sizes[1] == sizes[2] and sizes[3] < sizes[0] < sizes[4]
    losses = {tuple(run["last_loss"] for run in row["seeds"]) for row in results["variants"].values()}
    assert len(losses) == len(draft_head.VARIANTS)


def test_a_fresh_head_leads_as_one_step_does_and_known_bytes_do_not_count():
    model = tiny_model(dtype=torch.float32).requires_grad_(False)
    torch.manual_seed(0)
    hidden, teacher = torch.randn(2, 6, BLOCK, 32)
    best = model.byte_logits(hidden).argmax(-1)
    targets = best.clone()
    wrong = torch.tensor([1, 2, 3, 4, 4, 4])  # the first byte that is not the most likely one
    targets[torch.arange(6), wrong] = (best[torch.arange(6), wrong] + 1).clamp(max=250)
    targets[:, 0] = 77  # known
    states = BlockStates(hidden, teacher, torch.full((6, BLOCK), 70), targets, torch.arange(BLOCK) >= torch.ones(6, 1))
    assert draft_head.leading(model, states)["one step"].tolist() == (wrong - 1).tolist()
    model.add_draft_head()
    assert draft_head.leading(model, states)["head"].tolist() == (wrong - 1).tolist()


def test_the_standard_error_is_that_of_the_mean_over_seeds():
    found = draft_head.summary([{"leading_correct": value} for value in (1.0, 2.0, 3.0)])
    assert found["mean"] == 2.0 and found["standard_error"] == pytest.approx(1 / 3**0.5)
    assert draft_head.summary([{"leading_correct": 1.0}])["standard_error"] is None
