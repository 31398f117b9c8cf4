# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The objective teaches: a tiny model learns one short text, and drafted blocks then reproduce it."""

import pytest
import torch

from modeling_fblt.configuration_fblt import BOS_ID, BYTE_OFFSET, EOS_ID
from tests.modeling.tiny import tiny_model
from tests.thorough import long_run

TEXT = b"Nobody expects the demo text to be long; 7 bytes at a time it walks, and then, quite calmly, it ends.\n"


def text_ids() -> torch.Tensor:
    return torch.tensor([[BOS_ID, *(byte + BYTE_OFFSET for byte in TEXT), EOS_ID]])


def trained(steps: int, **changes):
    """A model after some steps of AdamW on copies of the text, and the two terms of the loss at each step."""
    model = tiny_model(dtype=torch.float32, boundary_share=0.4, **changes).train()
    ids = text_ids().expand(3, -1)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 10, (steps - step) / (0.3 * steps))
    )
    torch.manual_seed(0)
    history = []
    for _ in range(steps):
        output = model(ids, labels=ids)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        history.append((float(output.next_byte_loss), float(output.diffusion_loss)))
    return model.eval(), torch.tensor(history)


@pytest.mark.parametrize("corruption", ["draft", pytest.param("uniform", marks=long_run)])
def test_both_terms_fall_and_blocks_reproduce_the_text(corruption):
    # Decoding drafts from any byte, so blocks must have stood at any byte in training.
    model, history = trained(200, corruption=corruption, random_anchor_fraction=0.8, diffusion_t_min=0.05)
    first, last = history[:5].mean(0), history[-20:].mean(0)
    assert (last < 0.05 * first).all(), (first, last)
    ids = text_ids()
    known = 1 + len(b"Nobody ")
    for unmasking in ("one_step", "confidence", "entropy"):
        settings = {"decoding": "blt-d", "unmasking": unmasking, "max_new_tokens": ids.shape[1]}
        # It ends where the text does, by writing `</s>`.
        assert torch.equal(model.generate(ids[:, :known], **settings), ids)


def test_frozen_parts_stay_as_they_are():
    before = tiny_model(dtype=torch.float32, boundary_share=0.4).model.patcher.state_dict()
    after = trained(2)[0].model.patcher.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_every_part_that_trains_gets_a_gradient():
    for changes in ({}, {"decoder_input": "encoder"}, {"cross_attn_k": 1}):
        model = tiny_model(dtype=torch.float32, **changes).train()
        ids = text_ids().expand(2, -1)
        model(ids, labels=ids).loss.backward()
        missing = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
        assert not missing


def test_a_step_repeats_under_a_seed():
    model, ids = tiny_model(corruption="draft", random_anchor_fraction=0.5).train(), text_ids()
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(float(model(ids, labels=ids).loss.detach()))
    assert losses[0] == losses[1] != losses[2]
