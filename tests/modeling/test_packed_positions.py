# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Documents that `position_ids` tell apart: packed without padding and without `</s>`, they are what they are alone."""

from collections.abc import Sequence

import pytest
import torch

from modeling_fblt import FBLTModel
from modeling_fblt.configuration_fblt import EOS_ID
from tests.modeling.naive_decoding import shared_model
from tests.modeling.tiny import random_rows, tiny_config, tiny_model


def documents(lengths: Sequence[int]) -> list[torch.Tensor]:
    return [random_rows(1, length, seed=40 + i) for i, length in enumerate(lengths)]


def packed(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """One row of all documents `[1, n]`, and the positions that restart with each `[1, n]`."""
    return torch.cat(rows, dim=1), torch.cat([torch.arange(row.shape[1]) for row in rows])[None]


def inner(positions: torch.Tensor) -> torch.Tensor:
    """All bytes but the last of each document that another follows: `[1, n]` booleans. These predict nothing."""
    return torch.nn.functional.pad(positions[:, 1:] != 0, (0, 1), value=True)


@pytest.mark.parametrize("mode", ["entropy", "static", "space"])
@pytest.mark.parametrize("decoder_input", ["embedding", "encoder"])
@pytest.mark.parametrize("lengths", [(9, 12), (14, 1, 22, 3)])
def test_each_document_is_what_it_is_alone(mode, decoder_input, lengths):
    model = tiny_model(seed=3, patching_mode=mode, decoder_input=decoder_input)
    rows = documents(lengths)
    ids, positions = packed(rows)
    together = model(ids, position_ids=positions)
    alone = torch.cat([model(row, use_cache=False).logits for row in rows], dim=1)
    inside = inner(positions)
    torch.testing.assert_close(together.logits[inside], alone[inside], atol=1e-9, rtol=0)
    assert together.past_key_values is None
    # Told apart by nothing, they are not.
    assert not torch.allclose(model(ids).logits[inside], alone[inside], atol=1e-6, rtol=0)


@pytest.mark.parametrize("isolate", [True, False])
def test_they_are_told_apart_as_by_the_end_of_a_document(isolate):
    """Converted BLT weights let a patch and n-grams run over `</s>`; whatever `</s>` does, positions do as well."""
    model = tiny_model(seed=3, isolate_documents=isolate, eos_token_id=EOS_ID)
    rows = documents([17, 20, 9])
    rows[0][0, -1] = rows[1][0, -1] = EOS_ID
    ids, positions = packed(rows)
    told = model(ids, use_cache=False).logits
    torch.testing.assert_close(model(ids, position_ids=positions).logits, told, atol=1e-9, rtol=0)
    model.config.eos_token_id = None
    torch.testing.assert_close(model(ids, position_ids=positions).logits, told, atol=1e-9, rtol=0)
    assert not torch.allclose(model(ids, use_cache=False).logits, told, atol=1e-6, rtol=0)


def test_training_keeps_them_apart():
    """Blocks, too: with all of them masked, losses are those of the documents alone, by their numbers of bytes."""
    model = tiny_model(seed=3, diffusion_t_min=1 - 1e-9).train()
    rows = documents([14, 9, 22])
    ids, positions = packed(rows)
    labels = ids.masked_fill(positions == 0, -100)
    together = model(ids, labels=labels, position_ids=positions)
    bytes_of = [row.shape[1] - 1 for row in rows]
    alone = [model(row, labels=row) for row in rows]
    for name in ("next_byte_loss", "diffusion_loss"):
        sums = sum(getattr(part, name) * count for part, count in zip(alone, bytes_of, strict=True))
        torch.testing.assert_close(getattr(together, name), sums / sum(bytes_of), atol=1e-7, rtol=0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_positions(side):
    """Rows of different documents, padded: what collators write on padding is not read."""
    model = shared_model()
    rows = [packed(documents([7, 9])), packed(documents([5, 6, 3]))]
    width = 18
    ids, mask = torch.zeros(2, width, dtype=torch.long), torch.zeros(2, width, dtype=torch.long)
    positions = torch.ones(2, width, dtype=torch.long)
    for i, (row, position) in enumerate(rows):
        n = row.shape[1]
        place = slice(width - n, width) if side == "left" else slice(0, n)
        ids[i, place], positions[i, place], mask[i, place] = row[0], position[0], 1
    found = model(ids, attention_mask=mask, position_ids=positions).logits
    for i, (row, position) in enumerate(rows):
        torch.testing.assert_close(found[i][mask[i].bool()], model(row, position_ids=position).logits[0])


def test_positions_that_say_nothing_new_change_nothing():
    model, ids = shared_model(), random_rows(2, 12)
    found = model(ids, position_ids=torch.arange(12)[None])
    torch.testing.assert_close(found.logits, model(ids).logits)
    following = random_rows(2, 6, seed=2)
    cached = model(following, past_key_values=found.past_key_values, position_ids=torch.arange(12, 18)[None])
    torch.testing.assert_close(cached.logits, model(torch.cat([ids, following], dim=1)).logits[:, 12:])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("positions", "told"),
    [
        ([0, 1, 3, 4, 5], "jump"),
        ([0, 1, 2, 1, 2], "jump"),
        ([1, 2, 3, 4, 5], "begin at 0"),
        ([0, 1, 2, 3], "shape"),
    ],
)
def test_positions_that_cannot_be_are_refused(positions, told, training):
    model, ids = tiny_model().train(training), random_rows(1, 5)
    with pytest.raises(ValueError, match=f"`position_ids`.*{told}"):
        model(ids, labels=ids, position_ids=torch.tensor([positions]))


def test_a_cache_cannot_hold_several_documents():
    model = shared_model()
    cache = model(random_rows(1, 5)).past_key_values
    for positions in ([0, 1, 2], [4, 5, 6], [5, 0, 1]):
        with pytest.raises(ValueError, match="KV cache"):
            model(random_rows(1, 3), past_key_values=cache, position_ids=torch.tensor([positions]))


def test_the_model_without_a_head_reads_them_too():
    model = FBLTModel(tiny_config()).double().eval()
    rows = documents([9, 7])
    ids, positions = packed(rows)
    alone = torch.cat([model(row).last_hidden_state for row in rows], dim=1)
    found = model(ids, position_ids=positions).last_hidden_state
    inside = inner(positions)
    torch.testing.assert_close(found[inside], alone[inside], atol=1e-9, rtol=0)
