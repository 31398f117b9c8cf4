# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What the tests of decoding share: prompts, settings, the naive loop, and drafters that a test controls."""

import functools
from typing import Any

import torch
from transformers import LogitsProcessorList

from modeling_fblt.cache_fblt import FBLTCache
from modeling_fblt.configuration_fblt import EOS_ID, MASK_ID
from modeling_fblt.forward_steps_fblt import feed
from modeling_fblt.generation_state_fblt import Draft
from modeling_fblt.modeling_fblt import FBLTForCausalLM
from tests.modeling.tiny import packed_row, random_rows, tiny_model

# `<mask>` is never predicted: as a stop id it makes runs that only their length ends.
NEVER = MASK_ID
VERIFIED = {
    "blt-s": {"decoding": "blt-s", "draft_length": 4},
    "blt-dv one step": {"decoding": "blt-dv", "unmasking": "one_step"},
    "blt-dv confidence": {"decoding": "blt-dv", "unmasking": "confidence", "confidence_threshold": 0.012},
    "blt-dv entropy": {"decoding": "blt-dv", "unmasking": "entropy", "entropy_bound": 16.0, "block_size": 4},
    "blt-s passes": {"decoding": "blt-s", "draft_length": 4, "refine_steps": 2},
    "blt-dv pass, lookup": {
        "decoding": "blt-dv",
        "refine_steps": 1,
        "prompt_lookup_num_tokens": 6,
        "max_matching_ngram_size": 2,
    },
}
DRAFTED = {
    "blt-d confidence": {"decoding": "blt-d", "unmasking": "confidence", "confidence_threshold": 0.012},
    "blt-d entropy": {"decoding": "blt-d", "unmasking": "entropy", "entropy_bound": 11.0},
    "blt-d one step": {"decoding": "blt-d", "unmasking": "one_step"},
    "blt-d closed": {"decoding": "blt-d", "unmasking": "one_step", "close_patch": True},
    "blt-d passes": {"decoding": "blt-d", "unmasking": "one_step", "refine_steps": 2},
}
ALL = {"ar": {"decoding": "ar"}, **VERIFIED, **DRAFTED}
# One of each kind, where all take long.
FEW = ("ar", "blt-s", "blt-dv one step", "blt-dv pass, lookup", "blt-d confidence")


@functools.cache
def shared_model(decoder_input: str = "embedding") -> FBLTForCausalLM:
    return tiny_model(seed=3, decoder_input=decoder_input).requires_grad_(False)


def prompts() -> list[torch.Tensor]:
    """Rows of several lengths: long, `<s>` alone, with document ends inside and at the end."""
    inside = packed_row(7, 12, seed=6)[0, :-1]
    at_end = torch.cat([random_rows(1, 9, seed=7)[0], torch.tensor([EOS_ID])])
    return [random_rows(1, 25, seed=5)[0], torch.tensor([1]), inside, at_end]


def left_padded(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Arguments of `generate` for rows of several lengths."""
    width = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows])
    mask = torch.stack([torch.arange(width) >= width - len(row) for row in rows]).long()
    return {"input_ids": ids, "attention_mask": mask}


def naive_greedy(
    model: FBLTForCausalLM, prompt: torch.Tensor, new: int, eos: int = NEVER, processors: tuple = ()
) -> list[int]:
    """Plain greedy decoding of one row, a full pass without a cache for every byte."""
    ids, written = prompt[None], []
    while len(written) < new and eos not in written:
        scores = model(ids, use_cache=False).logits[:, -1]
        if processors:
            scores = LogitsProcessorList(processors)(ids, scores.float())
        byte = scores.argmax(-1)
        written.append(int(byte))
        ids = torch.cat([ids, byte[None]], dim=1)
    return written


def new_bytes(sequences: torch.Tensor, columns: int, eos: int = NEVER) -> list[list[int]]:
    """What was written after the prompts, up to and with a stop; all that follows must be padding."""
    rows = []
    for row in sequences[:, columns:].tolist():
        end = row.index(eos) + 1 if eos in row else len(row)
        assert not any(row[end:])
        rows.append(row[:end])
    return rows


def generated(model: FBLTForCausalLM, inputs: dict, new: int, eos: int = NEVER, **settings: Any) -> list[list[int]]:
    """New bytes of each row under greedy decoding."""
    sequences = model.generate(**inputs, max_new_tokens=new, eos_token_id=eos, do_sample=False, **settings)
    return new_bytes(sequences, inputs["input_ids"].shape[1], eos)


def assert_cache_equals_a_fresh_one(model: FBLTForCausalLM, cache: FBLTCache, rows: list[torch.Tensor]) -> None:
    """The cache holds these rows but for their last byte: what is fed to it next gives what whole rows give."""
    assert cache.lengths.tolist() == [len(row) - 1 for row in rows]
    probe = random_rows(len(rows), 14, seed=11)[:, 1:]
    probe[:, 0] = torch.stack([row[-1] for row in rows])
    fed = feed(model.model, probe, torch.full((len(rows),), probe.shape[1]), cache)
    for i, row in enumerate(rows):
        whole = model.model(torch.cat([row[:-1], probe[i]])[None], use_cache=False).last_hidden_state
        torch.testing.assert_close(fed.hidden[i], whole[0, len(row) - 1 :], atol=1e-9, rtol=0)


class ScriptedDrafter:
    """Drafts the true continuation, spoilt here and there, or random ids; shorter and longer from round to round.

    Args:
        truth: what plain decoding writes, `[batch, *]`.
        right: probability that a drafted byte is the true one, or, failing that, any id.
    """

    verifies = True

    def __init__(self, truth: torch.Tensor, right: float):
        self.truth, self.right = truth, right
        self.generator = torch.Generator().manual_seed(0)

    def draft(self, state) -> Draft:
        longest = int(torch.randint(0, 9, (1,), generator=self.generator))
        place = state.written[:, None] + torch.arange(longest)
        draft = self.truth.gather(1, place.clamp(max=self.truth.shape[1] - 1))
        spoilt = torch.rand(draft.shape, generator=self.generator) >= self.right
        # Any id at all, document ends and `<mask>` too; some rows draft less.
        draft = torch.where(spoilt, torch.randint(0, 261, draft.shape, generator=self.generator), draft)
        lengths = torch.randint(0, longest + 1, state.known.shape, generator=self.generator)
        return Draft(draft, torch.where((state.pending == 0) & state.active, lengths, 0))

    def observe(self, drafted: torch.Tensor, accepted: torch.Tensor) -> None:
        pass

    def select(self, rows: torch.Tensor) -> None:
        self.truth = self.truth[rows]
