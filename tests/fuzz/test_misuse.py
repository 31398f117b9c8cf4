# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Misuse from a grammar of bad values: an argument is used, or refused by an error that contains its name."""

import functools
import math
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeling_fblt.configuration_fblt import MASK_ID, FBLTConfig
from modeling_fblt.generation_rules_fblt import OBJECTS, OWN, SHARED
from tests.fuzz.tally import case
from tests.modeling.naive_decoding import shared_model
from tests.modeling.tiny import random_rows, tiny_config, tiny_model
from tests.thorough import THOROUGH, cases

IDS = random_rows(2, 7, seed=12)
# Names that messages may use for one another.
ALSO = {"cache": ("past_key_values",), "shift_labels": ("labels",), "attention_mask": ("input_ids",)}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.sampled_from([10**9, -(10**9), 10**30, 260, 261, 300]),
    st.floats(-2, 3),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e308, 5e-324]),
    st.sampled_from(["", "x", "1", "False", "auto", "ar", "blt-s", "blt-d", "blt-dv", "entropy", "byte", "never"]),
    st.sampled_from([object(), int, print, b"x", 1j, {1}, range(3)]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["call", "a", (1,), 3]), inner)
    ),
    max_leaves=4,
)


@st.composite
def tensors(draw) -> Any:
    """Tensors of wrong shapes, types and ranges, and some that fit."""
    shape = draw(st.sampled_from([(2, 7), (2, 7), (1, 7), (2, 6), (2, 8), (7,), (2, 7, 1), (0, 7), (2, 0), ()]))
    dtype = draw(st.sampled_from([torch.long, torch.int32, torch.uint8, torch.float32, torch.bool, torch.complex64]))
    value = draw(st.sampled_from([0, 1, 1, 5, 259, 260, 261, -1, -100, 10**6]))
    return torch.full(shape, value if dtype != torch.uint8 else value % 256).to(dtype)


SETTINGS = sorted({*OWN, *SHARED, *OBJECTS, "draft_cost"} - {"custom_generate"})
INPUTS = ["input_ids", "attention_mask", "past_key_values", "cache", "position_ids", "inputs_embeds", "labels",
          "patch_starts", "negative_prompt_ids", "shift_labels"]  # fmt: skip
quick = settings(
    max_examples=cases(40, 20000),
    deadline=None,
    derandomize=not THOROUGH,
    suppress_health_check=list(HealthCheck),
    database=None,
)


@functools.cache
def one_model(training: bool):
    return tiny_model().train(training)


def names_of(*names: str) -> tuple[str, ...]:
    return names + tuple(other for name in names for other in ALSO.get(name, ()))


@quick
@given(
    bad=st.lists(
        st.one_of(
            st.tuples(st.sampled_from(SETTINGS), values),
            st.tuples(st.sampled_from(INPUTS), st.one_of(values, tensors())),
        ),
        min_size=1,
        max_size=2,
        unique_by=lambda pair: pair[0],
    )
)
def test_generate_is_right_or_names_the_argument(bad):
    given_ = {"input_ids": IDS, "max_new_tokens": 3, "draft_cost": 0.3} | dict(bad)
    # Work that is honestly asked for may take long, and is no misuse.
    for name, most in (("num_beams", 6), ("num_return_sequences", 6), ("max_new_tokens", 12), ("max_length", 20)):
        if isinstance(given_.get(name), int) and most < given_[name] <= 10**12:
            given_[name] = most
    names = names_of(*given_, "decoding", "block_size", "draft_head", "do_sample", "guidance_scale", "input_ids")
    with case("generate", names):
        output = shared_model().generate(**given_)
        sequences = output if isinstance(output, torch.Tensor) else output.sequences
        ids = given_["input_ids"]
        if isinstance(ids, torch.Tensor):
            assert torch.equal(sequences[:: len(sequences) // len(ids), : ids.shape[1]], ids.long())
        # `<mask>` only where it was given; beams that no stop id ends are filled up with -1 by transformers.
        assert -1 <= int(sequences.min()) and int(sequences.max()) <= MASK_ID


@quick
@given(
    name=st.sampled_from([*INPUTS[:-2], "shift_labels", "use_cache", "logits_to_keep", "output_attentions",
                          "output_hidden_states", "return_dict", "cu_seq_lens_q", "is_causal", "typo"]),
    value=st.one_of(tensors(), values),
    training=st.booleans(),
    labelled=st.booleans(),
)  # fmt: skip
def test_forward_is_right_or_names_the_argument(name, value, training, labelled):
    model = one_model(training)
    given_ = {"input_ids": IDS} | ({"labels": IDS} if labelled else {}) | {name: value}
    with case("forward", names_of(*given_)):
        output = model(**given_)
        logits = output.logits if hasattr(output, "logits") else output[0]
        assert name == "return_dict" or logits.shape[0] == len(given_["input_ids"])


PARTS = ["", "patcher_config", "encoder_config", "global_config", "decoder_config", "draft_head_config"]


@quick
@given(data=st.data(), part=st.sampled_from(PARTS), value=values)
def test_configs_are_right_or_name_the_field(data, part, value):
    base = tiny_config(draft_head_config={"hidden_size": 8})
    found = getattr(base, part) if part else base
    name = data.draw(
        st.sampled_from([*found.rules, *([] if part in ("", "draft_head_config") else ["rope_parameters"])])
    )
    # Fields that are checked together may name each other.
    with case("FBLTConfig", names_of(name, *found.rules, "rope_parameters", "input", "block_size")):
        fields = {name: value} if not part else {part: {**found.to_dict(), name: value}}
        config = tiny_config(**fields)
        assert FBLTConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
