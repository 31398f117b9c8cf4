# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What transformers, Trainer and PEFT take for granted of a model, where FBLT could quietly differ."""

import copy

import pytest
import torch
from transformers import Trainer, TrainingArguments

from modeling_fblt import cache_fblt
from modeling_fblt.cache_fblt import FBLTCache
from modeling_fblt.configuration_fblt import BOS_ID, EOS_ID, MASK_ID, PAD_ID, VOCAB_SIZE
from modeling_fblt.modeling_fblt import FBLTForCausalLM, FBLTModel
from tests.modeling.tiny import BLOCK, DECODER_WINDOW, random_rows, tiny_config, tiny_model

pytestmark = pytest.mark.contract

CLOSE = {"atol": 1e-9, "rtol": 0}
PARTS = ("patcher_config", "encoder_config", "global_config", "decoder_config")
# Longer than two windows, where attention is computed in tiles.
LENGTHS = [12, 2 * DECODER_WINDOW + 7]


def padded(length: int, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Two rows, the second of `length` bytes and three columns of padding; and their mask."""
    ids, mask = random_rows(2, length + 3), torch.ones(2, length + 3, dtype=torch.long)
    gaps = {"left": [0, 1, 2], "right": [-3, -2, -1], "holes": [0, 3, 4]}[layout]
    mask[1, gaps], ids[1, gaps] = 0, PAD_ID
    ids[1, int(mask[1].nonzero()[0])] = BOS_ID
    return ids, mask


def watch(model, ids: torch.Tensor, mask: torch.Tensor | None = None, cache: FBLTCache | None = None):
    model.set_attn_implementation("eager")
    flags = {"output_hidden_states": True, "output_attentions": True, "use_cache": False}
    return model(ids, attention_mask=mask, past_key_values=cache, **flags)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("layout", ["left", "right", "holes"])
def test_hidden_states_and_attentions_of_padded_rows_are_those_of_the_rows_alone(layout, length):
    model = tiny_model()
    ids, mask = padded(length, layout)
    real = mask[1].bool()
    together, alone = watch(model, ids, mask), watch(model, ids[1:, real])
    assert len(together.hidden_states) == len(alone.hidden_states) == model.config.num_hidden_layers + 1
    for states, own in zip(together.hidden_states, alone.hidden_states, strict=True):
        torch.testing.assert_close(states[1, real], own[0], **CLOSE)
        assert not states[1, ~real].any()
    for weights, own in zip(together.attentions, alone.attentions, strict=True):
        assert weights.shape == (2, model.config.num_attention_heads, length + 3, length + 3)
        torch.testing.assert_close(weights[1][:, real][:, :, real], own[0], **CLOSE)
        assert not weights[1][:, real][:, :, ~real].any()
        torch.testing.assert_close(own.sum(-1), torch.ones_like(own[..., 0]))


@pytest.mark.parametrize("length", [9, 60])
@pytest.mark.parametrize(
    ("layout", "names_all_columns"), [("left", True), ("holes", True), (None, True), ("left", False), (None, False)]
)
def test_attentions_and_hidden_states_of_cached_bytes_are_those_of_a_full_pass(
    layout, names_all_columns, length, monkeypatch
):
    """Whichever part of a row is new; of long rows the cache has dropped the first bytes.

    Columns that the mask does not name are taken to be padded on the left.
    """
    monkeypatch.setattr(cache_fblt, "RETAINED", 4)
    model = tiny_model()
    ids, mask = (random_rows(2, length), torch.ones(2, length)) if layout is None else padded(length - 3, layout)
    full = watch(model, ids, mask)
    cache, fed = FBLTCache(model.config, 2), 0
    for end in (length - 7, length - 4, length - 3, length):
        seen = None if layout is None and not names_all_columns else mask[:, 0 if names_all_columns else fed : end]
        part = watch(model, ids[:, fed:end], seen, cache)
        real = mask[:, fed:end].bool()
        for states, whole in zip(part.hidden_states, full.hidden_states, strict=True):
            torch.testing.assert_close(states, whole[:, fed:end], **CLOSE)
        for weights, whole in zip(part.attentions, full.attentions, strict=True):
            assert weights.shape == (2, model.config.num_attention_heads, end - fed, end)
            for row in range(2):
                expected = whole[row, :, fed:end, :end][:, real[row]]
                torch.testing.assert_close(weights[row][:, real[row]], expected, **CLOSE)
        fed = end
    assert bool((cache.origin.first > 0).all()) == (length == 60)


@pytest.mark.parametrize("length", LENGTHS)
def test_attentions_are_what_the_outputs_were_computed_with(length):
    """A row's first layer, with the weights that were handed out, gives the state that was handed out."""
    model = tiny_model()
    output = watch(model, random_rows(1, length))
    decoder = model.model.decoder
    inputs = []
    hook = decoder.layers[0].register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    watch(model, random_rows(1, length))
    hook.remove()
    layer, hidden = decoder.layers[0], inputs[0]
    attention = layer.attention
    value = attention.v_proj(layer.attention_norm(hidden)).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    attended = (output.attentions[0] @ value).transpose(1, 2).flatten(2)
    hidden = hidden + attention.o_proj(attended)
    hidden = hidden + layer.feed_forward(layer.feed_forward_norm(hidden))
    torch.testing.assert_close(hidden, output.hidden_states[1], **CLOSE)


@pytest.mark.parametrize("layout", ["left", "right", None])
def test_gradients_reach_the_hidden_states_and_attentions_that_were_handed_out(layout):
    model = tiny_model()
    ids, mask = (random_rows(2, 12), None) if layout is None else padded(9, layout)
    output = watch(model, ids, mask)
    watched = list(output.hidden_states)[:-1] + ([] if layout == "left" else list(output.attentions))
    gradients = torch.autograd.grad(output.logits[..., :MASK_ID].square().sum(), watched)
    assert all(gradient.any() for gradient in gradients)


def test_watching_changes_nothing_and_sdpa_hands_out_no_attentions():
    model = tiny_model()
    ids, mask = padded(9, "left")
    plain = model(ids, attention_mask=mask, use_cache=False)
    watched = model(ids, attention_mask=mask, use_cache=False, output_hidden_states=True, output_attentions=True)
    assert model.config.decoder_config._attn_implementation == "sdpa" and watched.attentions == ()
    assert torch.equal(watched.logits, plain.logits)


@pytest.mark.parametrize("flag", ["output_hidden_states", "output_attentions"])
def test_a_flag_may_stand_in_the_config(flag):
    model = tiny_model()
    model.set_attn_implementation("eager")
    ids = random_rows(1, 9)
    asked = model(ids, use_cache=False, **{flag: True})
    setattr(model.config, flag, True)
    configured = model(ids, use_cache=False)
    assert configured.keys() == asked.keys() and len(asked.keys()) == 2
    assert model(ids, use_cache=False, **{flag: False}).keys() == {"logits"}


@pytest.mark.parametrize("model_class", [FBLTModel, FBLTForCausalLM])
def test_arguments_that_would_be_swallowed_are_refused(model_class):
    model, ids = model_class(tiny_config()).eval(), random_rows(1, 9)
    packed = {"cu_seq_lens_q": torch.tensor([0, 4, 9]), "seq_idx": torch.arange(9)[None] // 4}
    for name, value in {"inputs_embeds": torch.zeros(1, 9, 32), **packed}.items():
        with pytest.raises(ValueError, match=f"`{name}`"):
            model(ids, **{name: value})
        with pytest.raises(ValueError, match=f"`{name}`"):
            model.train()(ids, **{name: value}, **({"labels": ids} if model_class is FBLTForCausalLM else {}))
        model.eval()(ids, **{name: None})  # wrappers pass what was not given


@pytest.mark.parametrize("decoding", ["ar", "blt-s", "blt-d", "blt-dv"])
def test_generate_refuses_them_too(decoding):
    model, ids = tiny_model(), random_rows(1, 9)
    for name, value in {"position_ids": torch.arange(9)[None], "inputs_embeds": torch.zeros(1, 9, 32)}.items():
        for given in ({"input_ids": ids}, {}):
            with pytest.raises(ValueError, match=f"`{name}`"):
                model.generate(**given, decoding=decoding, max_new_tokens=2, **{name: value})
        model.generate(ids, decoding=decoding, max_new_tokens=2, **{name: None})


def test_the_class_says_that_no_other_model_drafts_for_it():
    assert FBLTForCausalLM._is_stateful and not FBLTForCausalLM._can_compile_fullgraph


@pytest.mark.parametrize("model_class", [FBLTModel, FBLTForCausalLM])
def test_no_class_resizes_its_vocabulary(model_class):
    """Fitting a model to its own tokenizer changes nothing; more tokens are refused with the remedy."""
    model = model_class(tiny_config())
    before = model.get_input_embeddings()
    assert model.resize_token_embeddings(VOCAB_SIZE) is before is model.resize_token_embeddings()
    for arguments in ({"new_num_tokens": VOCAB_SIZE + 8}, {"pad_to_multiple_of": 64}):
        with pytest.raises(ValueError, match="vocabulary.*as bytes"):
            model.resize_token_embeddings(**arguments)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
def test_return_dict_none_means_the_configs(labelled, training):
    model, ids = tiny_model().train(training), random_rows(1, 12)
    arguments = {"labels": ids} if labelled else {}
    assert type(model(ids, return_dict=None, **arguments)).__name__ == "FBLTCausalLMOutput"
    model.config.return_dict = False
    assert isinstance(model(ids, return_dict=None, **arguments), tuple)


@pytest.mark.parametrize("block_size", [BLOCK, None])
@pytest.mark.parametrize("labels", ["padding", "one byte", "one byte each", "nothing", "any id"])
def test_odd_labels_give_a_finite_loss_and_finite_gradients(labels, block_size):
    model = tiny_model(dtype=torch.float32, block_size=block_size).train()
    ids, mask = padded(9, "left")
    wanted = ids.clone()
    if labels == "one byte":  # the other row's only byte has no successor
        mask[1], mask[1, -1] = 0, 1
    elif labels == "one byte each":
        mask[:], mask[:, -1] = 0, 1
    elif labels == "nothing":
        wanted[:] = -100
    elif labels == "any id":
        wanted = torch.arange(wanted.numel()).view_as(wanted) % MASK_ID
        wanted[0, :4] = torch.tensor([PAD_ID, BOS_ID, EOS_ID, MASK_ID - 1])
    output = model(ids, attention_mask=mask, labels=wanted)
    output.loss.backward()
    assert output.loss.isfinite() and output.logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    if labels in ("nothing", "one byte each"):
        assert output.loss.item() == 0.0


@pytest.mark.parametrize("eos", [None, 0, [2, 14]])
def test_any_end_of_document_id_will_do(eos):
    model = tiny_model(eos_token_id=eos, pad_token_id=0, bos_token_id=0)
    ids = torch.randint(0, VOCAB_SIZE, (3, 20), generator=torch.Generator().manual_seed(0))
    full = model(ids, use_cache=False).logits
    assert full.isfinite().all()
    cache = model(ids[:, :8]).past_key_values
    torch.testing.assert_close(model(ids[:, 8:], past_key_values=cache).logits, full[:, 8:], **CLOSE)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("block_size", [BLOCK, None])
def test_gradient_checkpointing_changes_no_gradient(block_size, use_reentrant):
    model, ids = tiny_model(block_size=block_size).train(), random_rows(2, 31)

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(0)
        model(ids, labels=ids).loss.backward()
        return {name: p.grad for name, p in model.named_parameters()}

    plain = gradients()
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    assert model.is_activation_checkpointing
    checkpointed = gradients()
    for name, gradient in plain.items():
        assert (gradient is None) == name.startswith("model.patcher."), name
        if gradient is not None:
            # Not bit by bit: reentrant checkpointing adds gradients up in another order.
            torch.testing.assert_close(checkpointed[name], gradient, atol=1e-12, rtol=0)


def test_every_part_loads_its_own_config_from_the_whole(tmp_path):
    config = tiny_config()
    config.save_pretrained(tmp_path)
    for name in PARTS:
        part = getattr(config, name)
        loaded = type(part).from_pretrained(tmp_path)
        assert type(loaded) is type(part) and loaded.to_dict() == part.to_dict(), name


def test_the_attention_of_each_part_can_be_set_alone():
    model = copy.deepcopy(tiny_model())
    parts = [getattr(model.config, name) for name in PARTS]
    networks = (model.model.patcher, model.model.encoder, model.model.global_transformer, model.model.decoder)
    assert all(network.config is part for network, part in zip(networks, parts, strict=True))
    assert all(part._attn_implementation == "sdpa" for part in parts)
    model.set_attn_implementation({"decoder_config": "eager"})
    assert [part._attn_implementation for part in parts] == ["sdpa", "sdpa", "sdpa", "eager"]
    model.set_attn_implementation("eager")
    assert all(part._attn_implementation == "eager" for part in parts)
    with pytest.raises(ValueError, match="foo"):
        model.set_attn_implementation("foo")


@pytest.mark.parametrize("model_class", [FBLTModel, FBLTForCausalLM])
def test_a_model_made_on_the_meta_device_is_whole_once_initialised(model_class):
    torch.manual_seed(0)
    made = model_class(tiny_config())
    with torch.device("meta"):
        model = model_class(tiny_config())
    assert all(value.is_meta for value in [*model.parameters(), *model.buffers()])
    model.to_empty(device="cpu")
    model.init_weights()
    buffers = dict(model.named_buffers())
    for name, buffer in made.named_buffers():
        assert torch.equal(buffers[name], buffer), name
    weights = dict(model.named_parameters())
    for name, weight in made.named_parameters():
        drawn = weights[name]
        assert drawn.isfinite().all() and drawn.std().item() == pytest.approx(weight.std().item(), rel=0.25), name
    assert model(random_rows(2, 30))[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_patcher_of_a_half_precision_model_stays_in_float32(dtype, tmp_path):
    model = tiny_model(dtype=torch.float32)
    model.save_pretrained(tmp_path)
    for model_class in (FBLTForCausalLM, FBLTModel):
        half = model_class.from_pretrained(tmp_path, dtype=dtype).eval()
        assert half.dtype == dtype
        for name, parameter in half.named_parameters():
            assert parameter.dtype == (torch.float32 if "patcher." in name else dtype), name
        ids = random_rows(2, 60)
        assert torch.equal(half.patch(ids).entropies, model.patch(ids).entropies)
        assert torch.equal(half.patch(ids).patch_starts, model.patch(ids).patch_starts)
        cached, rest = half(ids[:, :30]), ids[:, 30:]
        assert half(rest, past_key_values=cached.past_key_values)[0].isfinite().all()


def test_the_trainer_hands_metrics_the_logits_alone(tmp_path):
    model = tiny_model(dtype=torch.float32)
    data = [{"input_ids": row, "labels": row} for row in random_rows(3, 12)]
    seen = []
    arguments = TrainingArguments(str(tmp_path), per_device_eval_batch_size=2, report_to=[], use_cpu=True)
    trainer = Trainer(model, arguments, eval_dataset=data, compute_metrics=lambda p: seen.append(p.predictions) or {})
    trainer.evaluate()
    assert seen[0].shape == (3, 12, VOCAB_SIZE)
