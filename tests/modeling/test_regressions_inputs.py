# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Inputs that were swallowed, or failed far from where they were given: each is used or refused by name."""

import pytest
import torch

from tests.modeling.tiny import random_rows, tiny_model


@pytest.mark.parametrize("shape", [(1, 0), (0, 4)])
@pytest.mark.parametrize("call", ["forward", "uncached", "trained", "patch", "generate"])
def test_input_ids_without_a_byte_are_refused_by_name(call, shape):
    model, ids = tiny_model(), torch.ones(shape, dtype=torch.long)
    calls = {
        "forward": lambda: model(ids),
        "uncached": lambda: model(ids, use_cache=False),
        "trained": lambda: model.train()(ids, labels=ids),
        "patch": lambda: model.patch(ids),
        "generate": lambda: model.generate(ids, max_new_tokens=2),
    }
    with pytest.raises(ValueError, match="input_ids"):
        calls[call]()


# --- the step that trains blocks ---


@pytest.mark.parametrize("keep", [3, torch.tensor([2, 7])])
def test_a_step_that_trains_blocks_keeps_the_logits_asked_for(keep):
    model, ids = tiny_model().train(), random_rows(2, 20)
    outputs = []
    for kept in (0, keep):
        torch.manual_seed(0)
        outputs.append(model(ids, labels=ids, logits_to_keep=kept))
    whole, some = outputs
    columns = slice(-keep, None) if isinstance(keep, int) else keep
    assert torch.equal(some.logits, whole.logits[:, columns])
    # The loss is that of all columns.
    assert whole.diffusion_loss is not None and torch.equal(some.loss, whole.loss)


@pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions"])
def test_a_step_that_trains_blocks_refuses_records_that_it_has_not(name):
    model, ids = tiny_model().train(), random_rows(2, 20)
    with pytest.raises(ValueError, match=f"`{name}`.*eval mode"):
        model(ids, labels=ids, **{name: True})
    # Set on the config, it is refused as well; an explicit False overrides it.
    model.set_attn_implementation("eager")
    setattr(model.config, name, True)
    with pytest.raises(ValueError, match=name):
        model(ids, labels=ids)
    assert torch.isfinite(model(ids, labels=ids, **{name: False}).loss)
