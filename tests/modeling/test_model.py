# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The model on whole rows: causality, padding, packed documents, what `forward` offers. In float64."""

import copy
import math

import pytest
import torch

from modeling_fblt.configuration_fblt import EOS_ID, MASK_ID, PAD_ID
from tests.modeling.tiny import DECODER_WINDOW, packed_row, random_rows, tiny_model

CLOSE = {"atol": 1e-9, "rtol": 0}
# Every way in which a model reads its bytes.
VARIANTS = [
    {},
    {"decoder_input": "encoder"},
    {"isolate_documents": False},
    {"max_patch_length": None},
    {"patching_mode": "static"},
    {"patching_mode": "space"},
]


def name(variant: dict) -> str:
    return "-".join(map(str, variant.values())) or "plain"


@pytest.fixture(params=VARIANTS, ids=name)
def model(request):
    return tiny_model(**request.param)


def logits_of(model, ids: torch.Tensor, **arguments) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False, **arguments).logits


def test_later_bytes_change_no_earlier_logits_and_boundaries(model):
    ids = torch.cat([random_rows(3, 45), packed_row(20, 25)])
    logits, starts = logits_of(model, ids), model.patch(ids).patch_starts
    for place in (1, 7, 22, 44):
        changed = ids.clone()
        changed[:, place:] = random_rows(4, 46 - place, seed=place)[:, 1:]
        changed[0, place] = EOS_ID
        torch.testing.assert_close(logits_of(model, changed)[:, :place], logits[:, :place], **CLOSE)
        # The byte at `place - 1` decides whether `place` starts a patch.
        assert torch.equal(model.patch(changed).patch_starts[:, : place + 1], starts[:, : place + 1])
        assert not torch.allclose(logits_of(model, changed)[:, place], logits[:, place], **CLOSE)


def padded(rows: list[torch.Tensor], layout: str, fill: int = PAD_ID) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of several lengths in one batch, padding on the left, on the right or anywhere; and their mask."""
    width = max(map(len, rows)) + 3
    ids, mask = torch.full((len(rows), width), fill), torch.zeros(len(rows), width, dtype=torch.long)
    for row, bytes_ in enumerate(rows):
        n = len(bytes_)
        places = {
            "left": torch.arange(width - n, width),
            "right": torch.arange(n),
            "holes": torch.randperm(width, generator=torch.Generator().manual_seed(row))[:n].sort().values,
        }[layout]
        ids[row, places], mask[row, places] = bytes_, 1
    return ids, mask


@pytest.mark.parametrize("layout", ["left", "right", "holes"])
def test_padded_rows_equal_rows_alone(model, layout):
    rows = [random_rows(1, 33)[0], random_rows(1, 1, seed=1)[0], packed_row(6, 11, seed=2)[0], random_rows(1, 9)[0]]
    # The id on padding is of no account, not even that of `</s>`.
    for fill in (PAD_ID, EOS_ID, 77):
        ids, mask = padded(rows, layout, fill)
        together, patches = logits_of(model, ids, attention_mask=mask), model.patch(ids, mask)
        for row, bytes_ in enumerate(rows):
            real = mask[row].bool()
            alone = model.patch(bytes_[None])
            torch.testing.assert_close(together[row, real], logits_of(model, bytes_[None])[0], **CLOSE)
            assert torch.equal(patches.patch_starts[row, :-1][real], alone.patch_starts[0, :-1])
            following = int(real.nonzero()[-1]) + 1
            assert patches.patch_starts[row, following] == alone.patch_starts[0, -1]
            assert patches.patch_starts[row].sum() == alone.patch_starts.sum()
            if alone.entropies is not None:
                torch.testing.assert_close(patches.entropies[row, real], alone.entropies[0], **CLOSE)
                assert not patches.entropies[row, ~real].any()


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != {"isolate_documents": False}], ids=name)
def test_isolated_documents_equal_documents_alone(variant):
    model = tiny_model(**variant)
    lengths = (13, 1, 2, 30, 21)
    ids = packed_row(*lengths)
    together, starts, end = logits_of(model, ids), model.patch(ids).patch_starts, 0
    for length in lengths:
        document = ids[:, end : end + length]
        torch.testing.assert_close(together[:, end : end + length], logits_of(model, document), **CLOSE)
        assert torch.equal(starts[:, end : end + length], model.patch(document).patch_starts[:, :-1])
        end += length


def test_documents_that_are_not_isolated_still_end_attention():
    model = tiny_model(isolate_documents=False)
    ids, other = packed_row(20, 60, seed=1), packed_row(20, 60, seed=1)
    other[:, 1:10] = random_rows(1, 10, seed=2)[:, 1:]
    starts = model.patch(ids).patch_starts
    assert torch.equal(starts[:, 20:], model.patch(other).patch_starts[:, 20:])
    first, second = (logits_of(model, row, patch_starts=starts) for row in (ids, other))
    # Until the second document completes its first patch, its bytes read the latent of the patch that holds `</s>`,
    # and later bytes attend to these within as many windows as there are layers.
    begins = 20 + int(starts[0, 20:].nonzero()[1])
    free = begins + model.config.num_hidden_layers * (DECODER_WINDOW - 1)
    assert free < 70 and not torch.allclose(first[:, 20:begins], second[:, 20:begins], **CLOSE)
    torch.testing.assert_close(first[:, free:], second[:, free:], **CLOSE)


def test_given_patch_starts_replace_the_patchers():
    model = tiny_model()
    rows = [random_rows(1, 20)[0], random_rows(1, 12, seed=1)[0]]
    ids, mask = padded(rows, "left")
    starts = model.patch(ids, mask).patch_starts
    expected = logits_of(model, ids, attention_mask=mask)
    asleep = copy.deepcopy(model)
    asleep.model.patcher = None
    torch.testing.assert_close(logits_of(asleep, ids, attention_mask=mask, patch_starts=starts), expected, **CLOSE)
    with pytest.raises(ValueError, match="`patch_starts`"):
        model(ids, attention_mask=mask, patch_starts=starts[:, :-1])


def test_the_mask_token_is_never_predicted():
    model, ids = tiny_model(), random_rows(2, 12)
    assert (logits_of(model, ids)[..., MASK_ID] == torch.finfo(torch.float64).min).all()


@pytest.mark.parametrize("reduction", ["labels", "shift_labels", "num_items_in_batch"])
def test_the_loss_in_eval_mode_is_the_mean_surprise_of_the_next_byte(reduction):
    model = tiny_model()
    rows = [random_rows(1, 20)[0], packed_row(5, 7)[0]]
    ids, mask = padded(rows, "left")
    labels = ids.masked_fill(mask == 0, -100)
    labels[0, 8:11] = -100
    total, count = 0.0, 0
    for row, bytes_ in enumerate(rows):
        log_p = torch.log_softmax(logits_of(model, bytes_[None])[0], -1)
        wanted = labels[row][mask[row].bool()]
        for i in range(len(bytes_) - 1):
            if wanted[i + 1] != -100:
                total, count = total - float(log_p[i, wanted[i + 1]]), count + 1
    arguments = {"labels": labels}
    if reduction == "shift_labels":
        arguments = {"shift_labels": torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]}
    if reduction == "num_items_in_batch":
        arguments["num_items_in_batch"] = torch.tensor(count := 123)
    with torch.no_grad():
        output = model(ids, attention_mask=mask, **arguments)
    assert float(output.loss) == pytest.approx(total / count, rel=1e-6)
    assert output.diffusion_loss is None
    assert math.isfinite(float(output.logits[0, 0].sum()))


def test_labels_with_a_cache_are_refused():
    model, ids = tiny_model(), random_rows(1, 12)
    cache = model(ids[:, :6]).past_key_values
    with pytest.raises(ValueError, match="`labels`"):
        model(ids[:, 6:], past_key_values=cache, labels=ids[:, 6:])


@pytest.mark.parametrize("kept", [1, 5, torch.tensor([0, 7])])
def test_logits_to_keep_are_the_same_logits(kept):
    model, ids = tiny_model(), random_rows(2, 12)
    columns = kept if isinstance(kept, torch.Tensor) else slice(-kept, None)
    torch.testing.assert_close(logits_of(model, ids, logits_to_keep=kept), logits_of(model, ids)[:, columns], **CLOSE)


@pytest.mark.parametrize("length", [15, 50])
def test_sdpa_equals_eager(length):
    model, ids = tiny_model(), random_rows(2, length)
    model.set_attn_implementation("eager")
    eager = logits_of(model, ids)
    model.set_attn_implementation("sdpa")
    assert model.model.decoder.config._attn_implementation == "sdpa"
    torch.testing.assert_close(logits_of(model, ids), eager, **CLOSE)


def test_hidden_states_and_attentions_are_the_decoders():
    model, ids = tiny_model(), random_rows(2, 12)
    model.set_attn_implementation("eager")
    output = model(ids, output_hidden_states=True, output_attentions=True)
    layers = model.config.decoder_config.num_hidden_layers
    assert [h.shape for h in output.hidden_states] == [(2, 12, 32)] * (layers + 1)
    torch.testing.assert_close(model.byte_logits(output.hidden_states[-1]), output.logits)
    assert [a.shape for a in output.attentions] == [(2, 2, 12, 12)] * layers
    assert torch.equal(model(ids, return_dict=False)[0], output.logits)


def test_the_vocabulary_cannot_be_resized():
    with pytest.raises(ValueError, match="vocabulary"):
        tiny_model().resize_token_embeddings(300)


def test_the_patcher_stays_frozen_and_in_eval_mode():
    model = tiny_model().train()
    assert not model.model.patcher.training and model.model.decoder.training
    assert not any(p.requires_grad for p in model.model.patcher.parameters())


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("asked", [{}, {"output_hidden_states": True}])
def test_a_tuple_holds_what_the_output_holds(use_cache, asked):
    model, ids = tiny_model(), random_rows(1, 12)
    full = model(ids, use_cache=use_cache, **asked)
    parts = model(ids, use_cache=use_cache, return_dict=False, **asked)
    assert len(parts) == len(full.to_tuple())
    torch.testing.assert_close(parts[0], full.logits)
    if asked:
        torch.testing.assert_close(parts[-1], full.hidden_states)


def test_autocast_moves_no_boundary():
    model, ids = tiny_model(dtype=torch.float32), random_rows(4, 60, seed=8)
    plain = model.patch(ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = model.patch(ids)
    assert torch.equal(cast.patch_starts, plain.patch_starts) and torch.equal(cast.entropies, plain.entropies)
