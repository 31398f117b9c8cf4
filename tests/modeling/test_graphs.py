# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Graphs of the model: `torch.export` of its forward, and steps of decoding that compile whole."""

import pytest
import torch
from torch import nn

from modeling_fblt.modeling_fblt import FBLTForCausalLM
from tests.modeling.naive_decoding import shared_model
from tests.modeling.tiny import random_rows
from tests.thorough import long_run


class Logits(nn.Module):
    """Logits of rows alone: a graph takes and gives tensors."""

    def __init__(self, model: FBLTForCausalLM):
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, starts: torch.Tensor | None = None) -> torch.Tensor:
        return self.model(ids, attention_mask=mask, patch_starts=starts, use_cache=False, return_dict=False)[0]


def rows(seed: int, share: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two rows of 24 columns, the second with padding on the left, and patch starts at a share of the bytes."""
    torch.manual_seed(seed)
    mask, starts = torch.ones(2, 24, dtype=torch.long), torch.rand(2, 25) < share
    first = (0, 1 + seed % 9)
    for row, padding in enumerate(first):
        mask[row, :padding] = 0
        starts[row, :padding] = False
        starts[row, padding : padding + 2] = True
    return random_rows(2, 24, seed=seed), mask, starts


@pytest.mark.parametrize("given", [pytest.param(True, id="given"), pytest.param(False, marks=long_run, id="patcher")])
def test_an_exported_forward_gives_the_logits_of_the_model(given):
    """Whatever the patches of the text that it was exported with: one graph serves few patches and many."""
    model = shared_model()
    with torch.no_grad():
        count = 3 if given else 2
        graph = torch.export.export(Logits(model), rows(0, 0.4)[:count]).module()
        for seed, share in enumerate((0.0, 0.3, 1.0)):
            inputs = rows(seed, share)[:count]
            torch.testing.assert_close(graph(*inputs), Logits(model)(*inputs), atol=1e-12, rtol=0)
