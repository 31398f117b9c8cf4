# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Property 5: sampled `blt-s` and `blt-dv` are distributed as plain sampling is, whatever was drafted.

A tiny model over an alphabet of three bytes: the probability of every text of a few bytes is known exactly, from full
passes without a cache, and 5,000 sampled texts (20,000 in the long form) are held against them by a chi-square test
with a fixed seed. They are drawn in one batch from the smallest networks there can be: what is tested are rules, and
5,000 rows of anything larger take minutes in all.
"""

import dataclasses
import functools
import itertools

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from modeling_fblt import byte_choice_fblt, drafters_fblt
from modeling_fblt.byte_choice_fblt import ByteChoice
from modeling_fblt.configuration_fblt import VOCAB_SIZE
from modeling_fblt.drafters_fblt import BlockFiller
from modeling_fblt.lookup_fblt import with_copies
from modeling_fblt.verification_fblt import accept_sampled
from tests.modeling.naive_decoding import NEVER
from tests.modeling.tiny import DECODER_WINDOW, ENCODER_WINDOW, PATCHER_WINDOW, random_rows, tiny_model
from tests.thorough import cases, few, long_run

ALPHABET = (70, 80, 90)
NEW, DRAWS, BATCH = 4, cases(5_000, 20_000), 5_000
SUPPRESSED = [i for i in range(VOCAB_SIZE) if i not in ALPHABET]
# 99.99 % quantile of chi-square with 80 degrees of freedom (3^4 texts) is 135.8; the seed is fixed.
LIMIT = 135.8
# Confidences that about half of these models' drafted bytes reach, so that drafts take steps and end early.
SURE, SURE_AT_PATCH, SURE_HEAD = 0.66, 0.6, 0.8
THRESHOLDS = {SURE, SURE_AT_PATCH, SURE_HEAD}
WARPERS = {
    "plain": ({}, []),
    "hot, penalised nucleus": (
        {"temperature": 1.3, "repetition_penalty": 1.8, "top_p": 0.9},
        [RepetitionPenaltyLogitsProcessor(1.8), TemperatureLogitsWarper(1.3), TopPLogitsWarper(0.9)],
    ),
}
MODES = {
    "ar": {"decoding": "ar"},
    "blt-s": {"decoding": "blt-s", "draft_length": 3},
    "blt-s sure": {"decoding": "blt-s", "draft_length": 3, "draft_confidence": SURE},
    "blt-s two passes": {"decoding": "blt-s", "draft_length": 2, "paper_passes": True},
    "blt-dv one step": {"decoding": "blt-dv", "unmasking": "one_step"},
    "blt-dv in steps": {"decoding": "blt-dv", "unmasking": "confidence", "confidence_threshold": SURE},
    "blt-dv at the patch": {"decoding": "blt-dv", "block_anchor": "patch", "draft_confidence": SURE_AT_PATCH},
    "blt-dv auto": {"decoding": "blt-dv", "block_size": "auto", "draft_cost": 0.3},
    "blt-dv sequential, no head": {"decoding": "blt-dv", "unmasking": "sequential", "confidence_threshold": SURE},
    "blt-s passes": {"decoding": "blt-s", "draft_length": 3, "refine_steps": 2},
    "blt-s passes auto": {"decoding": "blt-s", "draft_length": "auto", "refine_steps": "auto", "draft_cost": 0.3},
    "blt-dv pass": {"decoding": "blt-dv", "refine_steps": 1},
    "blt-dv pass after steps": {
        "decoding": "blt-dv",
        "refine_steps": 1,
        "unmasking": "confidence",
        "confidence_threshold": SURE,
    },
    "blt-dv passes at the patch": {
        "decoding": "blt-dv",
        "refine_steps": 3,
        "block_anchor": "patch",
        "draft_confidence": SURE_AT_PATCH,
    },
    "lookup": {"decoding": "ar", "prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1},
    "lookup beside blocks": {
        "decoding": "blt-dv",
        "prompt_lookup_num_tokens": 3,
        "max_matching_ngram_size": 2,
    },
    "lookup beside passes": {
        "decoding": "blt-dv",
        "refine_steps": 2,
        "prompt_lookup_num_tokens": 2,
        "max_matching_ngram_size": 2,
    },
}
HEAD_MODES = {
    "head, one step": {"decoding": "blt-dv"},
    "head, sequential": {"decoding": "blt-dv", "unmasking": "sequential", "confidence_threshold": SURE_HEAD},
    "head, at the patch": {"decoding": "blt-dv", "block_anchor": "patch", "draft_confidence": SURE_HEAD},
    "head, two passes": {"decoding": "blt-dv", "paper_passes": True},
    "head, refined": {"decoding": "blt-dv", "refine_steps": 1},
    "head, refined in steps": {
        "decoding": "blt-dv",
        "refine_steps": 1,
        "unmasking": "sequential",
        "confidence_threshold": SURE_HEAD,
        "block_anchor": "patch",
    },
}


# What they try, others try in fewer calls: "head, sequential", "head, refined in steps" (which is at the patch),
# "blt-s passes auto", "blt-s passes", "lookup", "blt-dv pass".
SLOWEST = {
    "blt-dv in steps",
    "blt-dv sequential, no head",
    "blt-dv at the patch",
    "blt-dv auto",
    "lookup beside blocks",
    "lookup beside passes",
    "blt-dv pass after steps",
    "head, two passes",
    "head, at the patch",
    "blt-s two passes",
    "blt-dv passes at the patch",
    "head, refined",
}


def tiniest_model():
    network = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    lm = tiny_model(
        seed=11,
        dtype=torch.float32,
        patcher_config={**network, "sliding_window": PATCHER_WINDOW},
        encoder_config={**network, "sliding_window": ENCODER_WINDOW, "hash_vocab_size": 61, "hash_functions": 1},
        global_config=network,
        decoder_config={**network, "sliding_window": DECODER_WINDOW},
    )
    lm.requires_grad_(False)
    lm.lm_head.weight.mul_(6)  # far from uniform
    return lm


model = functools.cache(tiniest_model)


@functools.cache
def model_with_head():
    """The same model, whose drafts a random head makes depend on each other."""
    lm = tiniest_model()
    lm.add_draft_head(hidden_size=12)
    torch.manual_seed(1)
    for weight in lm.draft_head.parameters():
        weight.data.normal_(std=0.7)
    return lm


def prompt() -> torch.Tensor:
    """Random bytes, then some of the alphabet, so that what is written has stood there before, or has not."""
    return torch.cat([random_rows(1, 3, seed=4), torch.tensor([[80, 80, 90, 70, 80]])], dim=1)


@functools.cache
def exact(warpers: str) -> torch.Tensor:
    """Probability of each text of `NEW` bytes over the alphabet, `[3] * NEW`."""
    processors = LogitsProcessorList(WARPERS[warpers][1])
    banned = torch.tensor(SUPPRESSED)
    law = torch.ones([3] * NEW, dtype=torch.float64)
    for length in range(NEW):
        for text in itertools.product(range(3), repeat=length):
            written = torch.tensor([[ALPHABET[i] for i in text]], dtype=torch.long)
            ids = torch.cat([prompt(), written], dim=1)
            scores = model()(ids, use_cache=False).logits[:, -1]
            # generate's order: penalties, then suppression, then warpers.
            for processor in processors:
                if not isinstance(processor, RepetitionPenaltyLogitsProcessor):
                    break
                scores = processor(ids, scores)
            scores = scores.index_fill(1, banned, -torch.inf)
            for processor in processors:
                if not isinstance(processor, RepetitionPenaltyLogitsProcessor):
                    scores = processor(ids, scores)
            law[text] *= torch.softmax(scores.double(), -1)[0, list(ALPHABET)].view(3, *[1] * (NEW - length - 1))
    return law


def chi_square(warpers: str, mode: str, draws: int = DRAWS) -> float:
    """Of sampled texts against the exact law; texts that are hardly expected are counted together."""
    torch.manual_seed(0)
    lm = model_with_head() if mode in HEAD_MODES else model()
    mode = {**MODES, **HEAD_MODES}[mode]
    settings = {"top_k": 0, **WARPERS[warpers][0], **mode, "suppress_tokens": SUPPRESSED, "eos_token_id": NEVER}
    batches = [
        lm.generate(prompt(), max_new_tokens=NEW, do_sample=True, num_return_sequences=BATCH, **settings)
        for _ in range(draws // BATCH)
    ]
    drawn = torch.cat(batches)[:, -NEW:]
    place = sum((drawn == byte).long() * i for i, byte in enumerate(ALPHABET))
    code = (place * 3 ** torch.arange(NEW - 1, -1, -1)).sum(1)
    counts = torch.bincount(code, minlength=3**NEW).double()
    expected = exact(warpers).flatten() * draws
    assert counts[expected == 0].sum() == 0
    rare = expected < 5
    counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    kept = expected > 0
    return float(((counts - expected) ** 2 / expected.clamp(min=1e-9))[kept].sum())


def test_the_law_is_one_that_differs_from_the_drafts():
    """Otherwise a wrong rule would pass."""
    law = exact("plain")
    assert abs(float(law.sum()) - 1) < 1e-6 and float(law.max()) < 0.5 and int((law * 5_000 > 5).sum()) > 20


def written(mode: str, **changes):
    """A few hundred texts with their counters."""
    lm = model_with_head() if mode in HEAD_MODES else model()
    settings = {**MODES, **HEAD_MODES}[mode] | changes | {"suppress_tokens": SUPPRESSED, "eos_token_id": NEVER}
    torch.manual_seed(0)
    return lm.generate(
        prompt(), max_new_tokens=NEW, do_sample=True, num_return_sequences=300, return_dict_in_generate=True, **settings
    )


@long_run
@pytest.mark.parametrize(
    "mode", [name for name, mode in {**MODES, **HEAD_MODES}.items() if THRESHOLDS & set(mode.values())]
)
def test_the_thresholds_of_these_modes_matter(mode):
    """Some bytes reach them, others do not."""
    name, threshold = next(pair for pair in {**MODES, **HEAD_MODES}[mode].items() if pair[1] in THRESHOLDS)
    # The higher the threshold, the more steps a block takes, or the fewer bytes of a draft are left.
    count = "drafted" if name == "draft_confidence" else "decoder_nfe"
    found = [int(getattr(written(mode, **{name: value}), count).sum()) for value in (0.0, threshold, 1.0)]
    assert found == sorted(found, reverse=name == "draft_confidence") and len(set(found)) == 3


@pytest.mark.parametrize("mode", few([*MODES, *HEAD_MODES], {*MODES, *HEAD_MODES} - SLOWEST))
@pytest.mark.parametrize("warpers", few(["plain", "hot, penalised nucleus"], ["hot, penalised nucleus"]))
def test_texts_are_distributed_as_plain_sampling_has_them(warpers, mode):
    assert chi_square(warpers, mode) < LIMIT


def accept_without_residual(draft, lengths, target, proposal, uniform):
    """A plausible mistake: the byte after a rejection drawn from p itself."""
    accepted, _ = accept_sampled(draft, lengths, target, proposal, uniform)
    return accepted, target[torch.arange(len(target)), accepted]


def accept_as_certain_always(draft, lengths, target, proposal, uniform):
    """Another: drafts judged by the wrong proposal, a flat one."""
    flat = torch.full_like(target[:, :-1], 1 / 3)
    return accept_sampled(draft, lengths, target, flat, uniform)


@pytest.mark.parametrize(
    ("rule", "mode"),
    [
        (accept_without_residual, "blt-dv one step"),
        (accept_as_certain_always, "blt-s"),
        (accept_without_residual, "lookup"),
    ],
)
def test_a_wrong_rule_is_found_out(monkeypatch, rule, mode):
    monkeypatch.setattr(byte_choice_fblt, "accept_sampled", rule)
    assert chi_square("plain", mode) > LIMIT


@pytest.mark.parametrize("mode", few(["head, one step", "head, sequential"], ["head, one step"]))
def test_proposals_of_the_block_alone_are_found_out(monkeypatch, mode):
    """A mistake that a head invites: bytes drawn with its corrections, judged by the block's own distribution."""
    from_left = BlockFiller._from_left

    def judged_without(self, state, block, hidden, logits, noise):
        byte, corrected, _ = from_left(self, state, block, hidden, logits, noise)
        return byte, corrected, state.choose.in_block(state, logits)

    monkeypatch.setattr(BlockFiller, "_from_left", judged_without)
    assert chi_square("plain", mode) > LIMIT


verify = ByteChoice.verify


def drawn_again_where_it_differs(self, draft, scores):
    """A plausible mistake: the byte after what was kept is drawn with random numbers of its own."""
    choice, accepted = verify(self, draft, scores)
    if draft.noise is None:
        return choice, accepted
    again = self.draw(torch.softmax(scores.float(), dim=-1))
    differs = torch.arange(choice.shape[1]) == torch.where(accepted < draft.lengths, accepted, -1)[:, None]
    return torch.where(differs, again, choice), accepted


def copies_judged_as_drawn(draft, copies, lengths):
    """Another: copied bytes judged by what the row's own draft was drawn from."""
    merged = with_copies(draft, copies, lengths)
    if draft.proposals is None:
        return merged
    width = merged.ids.shape[1] - draft.ids.shape[1]
    return dataclasses.replace(merged, proposals=torch.nn.functional.pad(draft.proposals, (0, 0, 0, width)))


@pytest.mark.parametrize(
    ("owner", "name", "rule", "mode", "draws"),
    [
        # These shift the law by little, so it takes many draws to see them.
        pytest.param(ByteChoice, "verify", drawn_again_where_it_differs, "blt-s passes", 20_000, marks=long_run),
        pytest.param(
            ByteChoice, "verify", drawn_again_where_it_differs, "blt-dv passes at the patch", 20_000, marks=long_run
        ),
        (drafters_fblt, "with_copies", copies_judged_as_drawn, "lookup beside blocks", 5_000),
    ],
)
def test_a_draft_judged_in_the_wrong_way_is_found_out(monkeypatch, owner, name, rule, mode, draws):
    monkeypatch.setattr(owner, name, rule)
    assert chi_square("plain", mode, draws=draws) > LIMIT


@pytest.mark.parametrize("anchor", ["byte", "patch"])
def test_each_position_has_noise_of_its_own(monkeypatch, anchor):
    """Blocks with known bytes too: the byte after a whole draft is not drawn with noise that the draft has used."""
    refine, seen = drafters_fblt.refine, []

    def watched(state, draft, *others):
        assert (draft.noise is not None) and draft.noise.shape[:2] == draft.ids.shape
        seen.append(draft.noise.flatten(2))
        return refine(state, draft, *others)

    monkeypatch.setattr(drafters_fblt, "refine", watched)
    torch.manual_seed(0)
    settings = {"decoding": "blt-dv", "refine_steps": 1, "block_anchor": anchor, "eos_token_id": NEVER}
    model().generate(prompt(), max_new_tokens=24, do_sample=True, num_return_sequences=4, **settings)
    assert seen
    for noise in seen:
        first = noise[..., 0].flatten().tolist()
        assert len(set(first)) == len(first)


@pytest.mark.parametrize("mode", ["lookup", "lookup beside blocks"])
def test_lookup_takes_part_in_what_is_sampled(mode):
    """In some rows of a batch, while others draft by themselves."""
    torch.manual_seed(0)
    settings = {**MODES[mode], "suppress_tokens": SUPPRESSED, "eos_token_id": NEVER, "return_dict_in_generate": True}
    output = model().generate(prompt(), max_new_tokens=NEW, do_sample=True, num_return_sequences=500, **settings)
    by_itself = model().generate(
        prompt(), max_new_tokens=NEW, do_sample=True, num_return_sequences=500, **{**settings, "decoding": "ar"}
    )
    assert int(output.accepted.sum()) > 0
    assert (by_itself.drafted > 0).any()
    if mode != "lookup":
        called = output.decoder_nfe > output.iterations
        assert called.any() and not called.all()
