# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The draft head, in float64: fresh it changes nothing, it does what it learns, and its drafts are verified."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from modeling_fblt import modeling_fblt as forward_pass
from modeling_fblt.cache_fblt import FBLTCache
from modeling_fblt.configuration_fblt import BYTE_OFFSET, MASK_ID, FBLTConfig
from modeling_fblt.draft_head_fblt import FBLTDraftHead
from modeling_fblt.forward_steps_fblt import Block, draft_block, feed
from modeling_fblt.modeling_fblt import FBLTForCausalLM
from tests.modeling.naive_decoding import NEVER, generated, left_padded, prompts, shared_model
from tests.modeling.tiny import BLOCK, packed_row, random_rows, tiny_config, tiny_model
from tests.thorough import cases, few

NEW = 24
VERIFIED = {
    "blt-dv": {"decoding": "blt-dv"},
    "blt-dv at the patch": {"decoding": "blt-dv", "block_anchor": "patch"},
    "blt-dv sequential": {"decoding": "blt-dv", "unmasking": "sequential", "confidence_threshold": 0.3},
    "blt-dv sure": {"decoding": "blt-dv", "draft_confidence": 0.05},
    "blt-dv auto": {"decoding": "blt-dv", "block_size": "auto", "draft_cost": 0.4},
    "blt-dv two passes": {"decoding": "blt-dv", "paper_passes": True},
    "blt-dv confidence": {"decoding": "blt-dv", "unmasking": "confidence", "confidence_threshold": 0.012},
}
DRAFTED = {
    "blt-d": {"decoding": "blt-d", "unmasking": "one_step"},
    "blt-d sequential": {"decoding": "blt-d", "unmasking": "sequential", "confidence_threshold": 0.3},
    "blt-d closed": {"decoding": "blt-d", "unmasking": "one_step", "close_patch": True},
    "blt-d at the patch": {"decoding": "blt-d", "block_anchor": "patch"},
}
ALL = {**VERIFIED, **DRAFTED}


def give_head(model: FBLTForCausalLM, seed: int | None, **fields) -> FBLTForCausalLM:
    """Adds a head, of random weights large enough to change most bytes, or a fresh one where `seed` is None."""
    model.add_draft_head(hidden_size=12, **fields)
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for weight in model.draft_head.parameters():
            weight.data.copy_(torch.randn(weight.shape, generator=generator) * 0.5)
    return model


@functools.cache
def model_with_head(seed: int | None = 0, decoder_input: str = "embedding") -> FBLTForCausalLM:
    return give_head(tiny_model(seed=3, decoder_input=decoder_input), seed).requires_grad_(False)


# --- a fresh head changes nothing ---


@pytest.mark.parametrize("sampling", [{"do_sample": False}, {"do_sample": True, "temperature": 0.9, "top_k": 20}])
@pytest.mark.parametrize("name", few(ALL, ("blt-d", "blt-d sequential", "blt-dv", "blt-dv sure")))
def test_a_fresh_head_changes_nothing(name, sampling):
    texts = []
    for model in (shared_model(), model_with_head(None)):
        torch.manual_seed(0)
        own = {"max_new_tokens": NEW, "eos_token_id": NEVER, **sampling, **ALL[name]}
        own.setdefault("unmasking", "one_step")
        texts.append(model.generate(**left_padded(prompts()), **own))
    assert torch.equal(*texts)


def test_a_fresh_head_leaves_the_other_losses_as_they_are():
    ids = packed_rows()
    found = []
    for head in (False, True):
        model = tiny_model(corruption="draft", distillation=0.5)
        model = (give_head(model, None) if head else model).train()
        torch.manual_seed(1)
        found.append(model(ids, labels=ids))
    plain, headed = found
    assert torch.equal(plain.next_byte_loss, headed.next_byte_loss)
    torch.testing.assert_close(plain.diffusion_loss, headed.diffusion_loss, atol=1e-12, rtol=0)
    assert plain.draft_head_loss is None and headed.draft_head_loss > 0
    assert float(headed.loss.detach()) == pytest.approx(float(plain.loss.detach() + headed.draft_head_loss))


def test_heads_of_these_tests_change_drafts():
    """Otherwise the tests of this file would say little."""
    for name, own in DRAFTED.items():
        plain, headed = (generated(m, left_padded(prompts()), NEW, **own) for m in (shared_model(), model_with_head()))
        assert plain != headed, name
        without = generated(model_with_head(), left_padded(prompts()), NEW, draft_head=False, **own)
        same = {"unmasking": "confidence"} | own  # what a model without a head does by default
        assert without == generated(shared_model(), left_padded(prompts()), NEW, **same), name


# --- property 4: verified drafts, greedy ---


@settings(max_examples=cases(20, 500), deadline=None, derandomize=True)
@given(
    texts=st.lists(st.lists(st.integers(2, 259), max_size=20), min_size=1, max_size=3),
    new=st.integers(1, 16),
    name=st.sampled_from(list(VERIFIED)),
    block=st.integers(2, BLOCK),
    seed=st.integers(0, 3),
    decoder_input=st.sampled_from(["embedding", "encoder"]),
)
def test_verified_drafts_of_a_head_give_what_ar_writes(texts, new, name, block, seed, decoder_input):
    model, inputs = model_with_head(seed, decoder_input), left_padded([torch.tensor([1, *text]) for text in texts])
    own = {"block_size": block} | VERIFIED[name]
    assert generated(model, inputs, new, **own) == generated(model, inputs, new, decoding="ar")


@functools.cache
def penalised(name: str) -> list[list[int]]:
    settings_ = {"repetition_penalty": 1.4, "valid_utf8": True, **VERIFIED.get(name, {"decoding": "ar"})}
    return generated(model_with_head(), left_padded(prompts()), NEW, **settings_)


@pytest.mark.parametrize(
    "name", few(VERIFIED, ("blt-dv", "blt-dv at the patch", "blt-dv sequential", "blt-dv confidence"))
)
def test_processors_are_offered_the_true_prefix_when_verified(name):
    assert penalised(name) == penalised("ar")


# --- what is taken as drafted: against loops over one row ---


def naive_blt_d(
    model: FBLTForCausalLM, prompt: torch.Tensor, new: int, threshold: float | None, penalty: float = 1.0
) -> list[int]:
    """`blt-d` of one row, byte by byte: the head's state is kept in a loop, nothing is batched.

    Args:
        threshold: of sequential unmasking; one step when None.
    """
    head, text = model.draft_head, prompt.tolist()
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    while len(text) < len(prompt) + new:
        cache = FBLTCache(model.config, 1)
        fed = len(text) - 1 if len(text) > 1 else 1  # the carried byte stands in the block
        feed(model.model, torch.tensor([text[:fed]]), torch.tensor([fed]), cache)
        known = text[fed:]
        while len(known) < BLOCK:
            block = torch.tensor([known + [MASK_ID] * (BLOCK - len(known))])
            hidden = draft_block(model.model, Block(block, torch.tensor([fed])), cache)[0]
            logits = model.byte_logits(hidden)
            state, before, filled = torch.zeros(1, 12, dtype=torch.float64), text[fed - 1], list(known)
            for i in range(BLOCK):
                own = torch.tensor([before])
                read = head.embed_tokens(own) + head.state_projection(hidden[i : i + 1])
                state = head.cell(read, state)
                if i < len(known):
                    before = known[i]
                    continue
                scores = logits[i : i + 1] + head.correction(state, hidden[i : i + 1])
                if penalty != 1.0:
                    scores = processor(torch.tensor([text[:fed] + filled]), scores.float())
                sure = float(torch.softmax(scores.float(), -1).amax())
                if threshold is not None and i > len(known) and sure < threshold:
                    break
                before = int(scores.argmax())
                filled.append(before)
            known = filled
        text = text[:fed] + known
    return text[len(prompt) : len(prompt) + new]


@pytest.mark.parametrize("penalty", [1.0, 1.4])
@pytest.mark.parametrize("threshold", [None, 0.3, 0.6])
def test_blt_d_with_a_head_equals_a_loop_alone_and_in_batches(threshold, penalty):
    model = model_with_head()
    unmasking = {"unmasking": "one_step"}
    if threshold is not None:
        unmasking = {"unmasking": "sequential", "confidence_threshold": threshold}
    if penalty != 1.0:
        unmasking["repetition_penalty"] = penalty
    expected = [naive_blt_d(model, prompt, NEW, threshold, penalty) for prompt in prompts()]
    assert generated(model, left_padded(prompts()), NEW, decoding="blt-d", **unmasking) == expected
    for prompt, row in zip(prompts(), expected, strict=True):
        assert generated(model, {"input_ids": prompt[None]}, NEW, decoding="blt-d", **unmasking) == [row]


def test_sequential_unmasking_takes_as_many_calls_as_it_is_unsure():
    calls = []
    for threshold in (0.0, 0.3, 1.0):
        own = {"decoding": "blt-d", "unmasking": "sequential", "confidence_threshold": threshold}
        more = {"max_new_tokens": NEW, "eos_token_id": NEVER, "return_dict_in_generate": True}
        output = model_with_head().generate(**left_padded(prompts()), **own, **more)
        calls.append(output.decoder_nfe)
        # The head goes over the whole block in each of its calls.
        assert torch.equal(output.draft_head_nfe, BLOCK * output.decoder_nfe)
        if threshold == 0.0:
            assert torch.equal(output.decoder_nfe, output.iterations)  # one step
        if threshold == 1.0:
            # A byte per call; the first call of a round feeds bytes too.
            assert torch.equal(output.decoder_nfe, output.drafted)
    assert calls[0].sum() < calls[1].sum() < calls[2].sum()


def test_with_a_head_blt_d_is_sequential_unless_told_otherwise():
    inputs, own = left_padded(prompts()), {"decoding": "blt-d", "confidence_threshold": 0.3}
    assert generated(model_with_head(), inputs, NEW, **own) == generated(
        model_with_head(), inputs, NEW, unmasking="sequential", **own
    )
    assert generated(shared_model(), inputs, NEW, **own) == generated(
        shared_model(), inputs, NEW, unmasking="confidence", **own
    )


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("name", DRAFTED)
def test_what_a_head_drafts_decodes_where_it_must(name, do_sample):
    torch.manual_seed(2)
    inputs = left_padded([torch.tensor([1, *(b + BYTE_OFFSET for b in t.encode())]) for t in ("naïve", "", "ab")])
    own = {"max_new_tokens": 20, "eos_token_id": NEVER, "valid_utf8": True, "do_sample": do_sample, **DRAFTED[name]}
    output = model_with_head().generate(**inputs, **own, return_dict_in_generate=True)
    for row in output.sequences[:, -20:].tolist():
        bytes(i - BYTE_OFFSET for i in row if BYTE_OFFSET <= i < MASK_ID).decode("utf-8")


def test_a_head_asks_nothing_of_the_device(monkeypatch):
    """With processors too: whose columns are counted once a round, as for every draft."""
    reads = []
    for name in ("tolist", "item", "__bool__", "__int__"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, real=real: reads.append(1) or real(self))
    counts = []
    for head in (False, True):
        reads.clear()
        own = {"decoding": "blt-d", "unmasking": "one_step", "draft_head": head, "do_sample": True, "top_p": 0.9}
        torch.manual_seed(0)
        inputs = {"input_ids": prompts()[0][None]}
        model_with_head().generate(**inputs, max_new_tokens=4 * (BLOCK - 1), eos_token_id=NEVER, **own)
        counts.append(len(reads))
    assert counts[1] <= counts[0] + 1  # the known bytes of the first block


# --- property 7: training is what decoding does ---


def packed_rows() -> torch.Tensor:
    return torch.cat([random_rows(1, 44, seed=1), packed_row(17, 2, 25, seed=2)])


def trained(model: FBLTForCausalLM, ids: torch.Tensor, monkeypatch) -> tuple:
    """A training step's output, its blocks, and the head's corrected logits at masked positions."""
    recorded, logits = [], []

    def build(*arguments):
        recorded.append(build_blocks(*arguments))
        return recorded[-1]

    def loss(block_logits, *arguments):
        logits.append(block_logits)
        return block_loss(block_logits, *arguments)

    build_blocks, block_loss = forward_pass.build_blocks, forward_pass.block_loss
    monkeypatch.setattr(forward_pass, "build_blocks", build)
    monkeypatch.setattr(forward_pass, "block_loss", loss)
    torch.manual_seed(4)
    output = model.train()(ids, labels=ids)
    model.eval()
    assert len(logits) == 2  # the block's own, then the head's
    return output, recorded[0], logits[1]


@pytest.mark.parametrize("distillation", [1.0, 0.0, 0.3])
@pytest.mark.parametrize("changes", [{}, {"decoder_input": "encoder"}, {"corruption": "per_block"}], ids=str)
def test_the_loss_in_training_is_that_of_cached_steps_one_by_one(changes, distillation, monkeypatch):
    model = tiny_model(**{"corruption": "prefix", "random_anchor_fraction": 0.5, "block_fraction": 0.7, **changes})
    give_head(model, 1, distillation=distillation, loss_decay=3.0).requires_grad_(False)
    ids = packed_rows()
    output, blocks, logits = trained(model, ids, monkeypatch)
    clean = torch.log_softmax(model(ids).logits, -1)
    expected, total, place = [], 0.0, 0
    for row, anchors in enumerate(blocks.anchors.tolist()):
        for block, anchor in enumerate(anchors):
            if not blocks.masked[row, block].any():
                continue
            size = int(blocks.present[row, block].sum())
            cache = FBLTCache(model.config, 1)
            feed(model.model, ids[row : row + 1, :anchor], torch.tensor([anchor]), cache)
            alone = blocks.input_ids[row : row + 1, block, :size]
            hidden = draft_block(model.model, Block(alone, torch.tensor([anchor])), cache)
            true = ids[row : row + 1, anchor : anchor + size]
            _, corrected, _ = model.draft_head.fill(
                ids[row : row + 1, anchor - 1],
                hidden,
                model.byte_logits(hidden),
                true,
                torch.zeros(1, size, dtype=torch.bool),
                lambda logits, i, filled: (logits, logits.argmax(-1)),
            )
            earlier = 0
            for offset in range(size):
                if not blocks.masked[row, block, offset]:
                    continue
                expected.append(corrected[0, offset])
                log_q = torch.log_softmax(corrected[0, offset], -1)[:MASK_ID]
                log_p = clean[row, anchor + offset - 1, :MASK_ID]
                divergence = (log_p.exp() * (log_p - log_q)).sum()
                surprise = -log_q[true[0, offset]]
                weight = torch.tensor(-earlier / 3.0).exp() / 0.7
                total += weight * (distillation * divergence + (1 - distillation) * surprise)
                earlier, place = earlier + 1, place + 1
    assert place > 30
    # The weight of `<mask>`, which nothing predicts, is beyond comparison.
    torch.testing.assert_close(logits[:, :MASK_ID], torch.stack(expected)[:, :MASK_ID], atol=1e-9, rtol=0)
    # The model's patch starts need no forward from here, so the count is that of both rows.
    assert float(output.draft_head_loss) == pytest.approx(float(total) / (2 * 43), rel=1e-5)


def test_the_head_alone_learns_and_its_loss_reaches_the_decoder():
    model, ids = give_head(tiny_model(corruption="prefix"), 1), packed_rows()
    torch.manual_seed(0)
    model.train()(ids, labels=ids).loss.backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.draft_head.parameters())
    with_head = model.model.decoder.layers[0].feed_forward
    grads = [p.grad.clone() for p in with_head.parameters()]
    model.zero_grad()
    model.config.draft_head_loss_weight = 0.0
    torch.manual_seed(0)
    output = model.train()(ids, labels=ids)
    output.loss.backward()
    assert output.draft_head_loss is None
    assert all(weight.grad is None and not weight.requires_grad for weight in model.draft_head.parameters())
    assert any(not torch.equal(a, p.grad) for a, p in zip(grads, with_head.parameters(), strict=True))


def test_rows_without_any_loss_train_nothing_and_fail_nothing():
    model, ids = give_head(tiny_model(), 1).train(), random_rows(2, 30)
    output = model(ids, labels=torch.full_like(ids, -100))
    output.loss.backward()
    assert float(output.draft_head_loss) == 0.0


def test_a_block_is_filled_in_by_one_graph():
    head = model_with_head().draft_head

    def fill(before, hidden, logits, known, masked, noise):
        def choose(corrected, i, filled):
            return corrected, (torch.softmax(corrected.float(), -1) / noise[:, i]).argmax(-1)

        return head.fill(before, hidden, logits, known, masked, choose)

    torch.manual_seed(0)
    inputs = (
        torch.randint(4, 260, (3,)),
        torch.randn(3, BLOCK, 32, dtype=torch.float64),
        torch.randn(3, BLOCK, 261, dtype=torch.float64),
        torch.randint(4, 260, (3, BLOCK)),
        torch.arange(BLOCK) >= torch.tensor([0, 1, 3])[:, None],
        torch.rand(3, BLOCK, 261),
    )
    compiled = torch.compile(fill, fullgraph=True, backend="eager")(*inputs)
    for found, expected in zip(compiled, fill(*inputs), strict=True):
        assert torch.equal(found, expected)


# --- saving, loading, refusing ---


def test_a_head_is_saved_and_loaded(tmp_path):
    model = model_with_head()
    model.save_pretrained(tmp_path)
    loaded = FBLTForCausalLM.from_pretrained(tmp_path, dtype=torch.float64).eval()
    assert type(loaded.config.draft_head_config).__name__ == "FBLTDraftHeadConfig"
    assert loaded.config.draft_head_config.hidden_size == 12
    assert isinstance(loaded.draft_head, FBLTDraftHead)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    inputs = left_padded(prompts())
    assert generated(loaded, inputs, NEW, **DRAFTED["blt-d"]) == generated(model, inputs, NEW, **DRAFTED["blt-d"])


def test_weights_without_a_head_load_and_take_a_fresh_one(tmp_path):
    shared_model().save_pretrained(tmp_path)
    plain = FBLTForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert plain.draft_head is None and plain.config.draft_head_config is None
    config = FBLTConfig.from_pretrained(tmp_path)
    config.draft_head_config = model_with_head().config.draft_head_config
    loaded = FBLTForCausalLM.from_pretrained(tmp_path, config=config, dtype=torch.float64)
    assert not loaded.draft_head.output_projection.weight.any()
    assert all(bool(w.isfinite().all()) for w in loaded.draft_head.parameters())
    assert loaded.draft_head.cell.weight_hh.std() > 0.1


def test_configs_from_before_there_were_heads_load():
    fields = tiny_config().to_dict()
    for name in ("draft_head_config", "draft_head_loss_weight"):
        del fields[name]
    config = FBLTConfig.from_dict(fields)
    assert config.draft_head_config is None and config.to_dict() == tiny_config().to_dict()


def test_what_cannot_be_is_refused_by_name():
    with pytest.raises(ValueError, match="`draft_head_config`"):
        tiny_config(block_size=None, draft_head_config={})
    with pytest.raises(ValueError, match=r"`fblt_draft_head\.hidden_size`"):
        tiny_config(draft_head_config={"hidden_size": 0})
    with pytest.raises(ValueError, match=r"`fblt_draft_head\.loss_decay`"):
        tiny_config(draft_head_config={"loss_decay": 0.0})
    with pytest.raises(ValueError, match="`draft_head` is True"):
        generated(shared_model(), left_padded(prompts()), 4, decoding="blt-dv", draft_head=True)
    with pytest.raises(ValueError, match="already"):
        model_with_head().add_draft_head()
    with pytest.raises(ValueError, match="`block_size` is None"):
        tiny_model(block_size=None).add_draft_head()
