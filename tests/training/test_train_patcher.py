"""The patcher alone computes what it computes within a model."""

import pytest
import torch

pytest.importorskip("datasets")

from fblt.training.components import train_patcher  # noqa: E402
from fblt.training.components.train_patcher import mean_patch_length, next_byte_logits, row_entropies  # noqa: E402

from modeling_fblt.attention_fblt import SquareContext, TiledContext  # noqa: E402
from modeling_fblt.masks_fblt import windowed_causal  # noqa: E402
from tests.modeling.tiny import PATCHER_WINDOW, packed_row, tiny_model  # noqa: E402


@pytest.mark.parametrize("lengths", [(9, 2, 5), (30, 3, 41), (70,)])
def test_logits_of_a_bare_patcher_are_those_of_one_dense_square(lengths):
    model = tiny_model().model
    ids = packed_row(*lengths)
    logits, document = next_byte_logits(model.patcher, ids, model.config.eos_token_id)
    starts = [sum(lengths[:i]) for i, length in enumerate(lengths) for _ in range(length)]
    assert document.tolist() == [[*starts, sum(lengths)]]
    positions = torch.arange(ids.shape[1])
    square = windowed_causal(positions[:, None], positions, torch.tensor(starts)[:, None], PATCHER_WINDOW)
    expected = model.patcher(ids, positions[None], SquareContext(square[None]))
    assert torch.allclose(logits, expected, atol=1e-12, rtol=0)


def test_long_rows_are_tiled(monkeypatch):
    model = tiny_model().model
    contexts = []
    real = train_patcher.local_context
    monkeypatch.setattr(train_patcher, "local_context", lambda *args: contexts.append(real(*args)) or contexts[-1])
    next_byte_logits(model.patcher, packed_row(2 * PATCHER_WINDOW + 1), model.config.eos_token_id)
    assert isinstance(contexts[0], TiledContext)


def test_entropies_and_patch_lengths_are_those_of_the_model():
    model = tiny_model().model
    rows = torch.cat([packed_row(20, 3, 17), packed_row(40, seed=1)])
    entropies, document, _ = row_entropies(model.patcher, rows.numpy(), model.config.eos_token_id)
    found = model.patch(rows)
    assert torch.equal(entropies, found.entropies)
    length = mean_patch_length(entropies, document, model.config.patching_threshold, model.config)
    assert length == rows.numel() / found.patch_starts[:, :-1].sum().item()
