# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Graphs of the model: `torch.export` of its forward, and steps of decoding that compile whole."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from modeling_fblt.cache_fblt import FBLTCache
from modeling_fblt.forward_steps_fblt import Block, draft_block, feed
from modeling_fblt.modeling_fblt import FBLTForCausalLM
from tests.modeling.naive_decoding import shared_model
from tests.modeling.tiny import BLOCK, random_rows
from tests.thorough import cases, long_run


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


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=long_run)])
def test_drafting_a_block_compiles_whole_and_once_for_all_lengths(backend):
    """Twice at most: torch takes numbers for constants until they change. Drafts are those of the step as it is."""
    model, rounds = shared_model(), cases(3, 8)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(backend)

    def step(ids: torch.Tensor, cache: FBLTCache) -> torch.Tensor:
        return model.byte_logits(draft_block(model.model, Block(ids, cache.lengths), cache))

    compiled = torch.compile(step, fullgraph=True, backend=counter)
    text, cache = random_rows(2, 20 + 3 * rounds, seed=0), FBLTCache(model.config, 2)
    with torch.no_grad():
        feed(model.model, text[:, :20], torch.tensor([20, 20]), cache)
        for i in range(20, 20 + 3 * rounds, 3):
            block = torch.full((2, BLOCK), model.config.mask_token_id)
            block[:, 0] = text[:, i]
            as_it_is = step(block, cache)  # so what bytes read of the latents is known when the compiled step runs
            torch.testing.assert_close(compiled(block, cache), as_it_is, atol=1e-10, rtol=0)
            feed(model.model, text[:, i : i + 3], torch.tensor([3, 3]), cache)
    assert counter.frame_count <= 2
