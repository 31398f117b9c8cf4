# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""What the settings of `generate` may be, FBLT's own and transformers', as tables.

transformers looks at some of its settings where it uses them, at others never: a length that is a string or an id that
is a fraction would fail far from here, or write another text.
"""

import math
from typing import Any

from transformers import GenerationConfig

from .compatibility_fblt import is_distributed
from .configuration_fblt import LONGEST, MASK_ID, VOCAB_SIZE
from .draft_costs_fblt import DraftCosts
from .fields_fblt import (
    Rule,
    any_of,
    between,
    check_fields,
    choice,
    flag,
    is_number,
    is_whole,
    number,
    whole,
    whole_list,
)
from .unmasking_fblt import UNMASKING

DECODINGS = ("ar", "blt-s", "blt-d", "blt-dv")
ANCHORS = ("byte", "patch")
AUTO = "auto"
LONGEST_GIVEN = 128  # bytes; of drafts whose length is given
MOST_PASSES = 16

_SHARE, _OPTIONAL_SHARE, _OPTIONAL_FLAG = number(0, 1), number(0, 1, None), flag(None)
OWN = {
    "decoding": choice(*DECODINGS),
    "block_size": whole(2, LONGEST, None, AUTO),
    "draft_length": whole(1, LONGEST_GIVEN, AUTO),
    "refine_steps": whole(0, MOST_PASSES, AUTO),
    "prompt_lookup_num_tokens": whole(1, LONGEST_GIVEN, None),
    "max_matching_ngram_size": whole(1, LONGEST_GIVEN, None),
    "draft_confidence": _OPTIONAL_SHARE,
    "unmasking": choice(*UNMASKING, None),
    "draft_head": _OPTIONAL_FLAG,
    "confidence_threshold": _SHARE,
    "entropy_bound": number(0, math.inf),
    "block_anchor": choice(*ANCHORS),
    "close_patch": flag(),
    "paper_passes": flag(),
    "valid_utf8": flag(),
}

# -1, as elsewhere, is an id that is never written.
_STOPS = any_of(whole(-1, MASK_ID, None), whole_list(-1, MASK_ID, VOCAB_SIZE + 1))
_IDS = whole_list(0, MASK_ID, 4 * VOCAB_SIZE, None)
_FORCED = any_of(whole(0, MASK_ID - 1, None), whole_list(0, MASK_ID - 1, VOCAB_SIZE, shortest=1))
_LENGTH = whole(1, LONGEST, None)
_LEAST = whole(0, LONGEST, None)
# transformers looks through as many columns as such an n-gram has.
_NGRAM = whole(0, 1 << 16, None)
_TEXTS = Rule(
    lambda value: (
        value is None
        or (isinstance(value, str) and value != "")
        or (isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(t, str) and t for t in value))
    ),
    "give a string, a list of one or more strings, none of them empty, or None",
)
_WATERMARK = {
    "greenlist_ratio": _SHARE,
    "bias": number(-math.inf, math.inf),
    "hashing_key": whole(0, LONGEST),
    "seeding_scheme": choice("lefthash", "selfhash"),
    "context_width": whole(1, LONGEST),
}


def _are_sequences(value: Any) -> bool:
    lists = isinstance(value, (list, tuple)) and len(value) > 0
    return lists and all(ids is not None and _IDS.holds(ids) and len(ids) > 0 for ids in value)


def _are_biases(value: Any) -> bool:
    pairs = list(value.items()) if isinstance(value, dict) else value
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        return False
    return _are_sequences([ids for ids, _ in pairs]) and all(is_number(bias) for _, bias in pairs)


SHARED = {
    "max_new_tokens": _LENGTH,
    "max_length": _LENGTH,
    "min_new_tokens": _LEAST,
    "min_length": _LEAST,
    "num_beams": whole(1, 1 << 12, None),
    "num_return_sequences": whole(1, 1 << 16, None),
    **{
        name: _OPTIONAL_FLAG
        for name in (
            "do_sample",
            "use_cache",
            "return_dict_in_generate",
            "output_scores",
            "output_logits",
            "output_attentions",
            "output_hidden_states",
            "renormalize_logits",
            "remove_invalid_values",
        )
    },
    "temperature": number(0, math.inf, None),
    "top_k": whole(0, LONGEST, None),
    **{name: _OPTIONAL_SHARE for name in ("top_p", "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")},
    "repetition_penalty": between(0, math.inf, None),
    "no_repeat_ngram_size": _NGRAM,
    "length_penalty": number(-math.inf, math.inf, None),
    "early_stopping": flag(None, "never"),
    "guidance_scale": number(-math.inf, math.inf, None),
    "max_time": number(0, math.inf, None),
    "stop_strings": _TEXTS,
    "eos_token_id": _STOPS,
    "pad_token_id": whole(0, MASK_ID - 1, None),
    "bos_token_id": whole(0, MASK_ID - 1, None),
    "suppress_tokens": _IDS,
    "begin_suppress_tokens": _IDS,
    "bad_words_ids": Rule(
        lambda value: value is None or _are_sequences(value), "give a list of lists of integers from 0 to 260, or None"
    ),
    "sequence_bias": Rule(
        lambda value: value is None or _are_biases(value),
        "give a dict, or a list of pairs, from tuples of integers from 0 to 260 to finite numbers, or None",
    ),
    "encoder_repetition_penalty": between(0, math.inf, None),
    "encoder_no_repeat_ngram_size": _NGRAM,
    "forced_bos_token_id": _FORCED,
    "forced_eos_token_id": _FORCED,
}


def _is_off(value: Any) -> bool:
    return value is None or value is False


def _is_watermark(value: Any) -> bool:
    return isinstance(value, dict) and all(name in _WATERMARK and _WATERMARK[name].holds(value[name]) for name in value)


def _all_callable(value: Any) -> bool:
    """A list of functions, or None; a class stands there where an object of it was meant."""
    lists = isinstance(value, (list, tuple))
    return value is None or (lists and all(callable(item) and not isinstance(item, type) for item in value))


# Objects that `generate` is given, by what is asked of them.
OBJECTS = {
    "generation_config": Rule(
        lambda value: value is None or isinstance(value, GenerationConfig),
        "give a GenerationConfig, or settings by name",
    ),
    "logits_processor": Rule(_all_callable, "give a LogitsProcessorList, or a list of functions of ids and scores"),
    "stopping_criteria": Rule(_all_callable, "give a StoppingCriteriaList, or a list of functions of ids and scores"),
    "prefix_allowed_tokens_fn": Rule(
        lambda value: value is None or callable(value), "give a function of a row's number and its ids"
    ),
    "streamer": Rule(
        lambda value: value is None or (hasattr(value, "put") and hasattr(value, "end")),
        "give a streamer, with `put` and `end`",
    ),
    "tokenizer": Rule(lambda value: value is None or hasattr(value, "get_vocab"), "give the model's tokenizer"),
    "watermarking_config": Rule(
        lambda value: value is None or _is_watermark(value) or hasattr(value, "construct_processor"),
        "give a WatermarkingConfig, a SynthIDTextWatermarkingConfig, or a dict of the former's fields",
    ),
    "synced_gpus": Rule(
        lambda value: _is_off(value) or (value is True and is_distributed()),
        "give True only where processes that share the weights write together, False, or None",
    ),
    "custom_generate": Rule(
        lambda value: value is None or isinstance(value, str) or callable(value), "give a name or a function"
    ),
    "exponential_decay_length_penalty": Rule(
        lambda value: (
            value is None
            or (isinstance(value, (list, tuple)) and len(value) == 2 and is_whole(value[0]) and is_number(value[1]))
        ),
        "give a pair, bytes after which it begins and its factor",
    ),
    "cache_implementation": Rule(
        lambda value: value is None, "FBLT keeps its own state and brings its own cache; leave it None"
    ),
    # FBLT drafts and verifies by itself.
    "assistant_model": Rule(lambda value: value is None, "choose decoding='blt-dv' or 'blt-s' instead"),
    "penalty_alpha": Rule(lambda value: value is None, "FBLT has no contrastive search; leave it out"),
    "dola_layers": Rule(lambda value: value is None, "FBLT has no such decoding; leave it out"),
    "num_beam_groups": Rule(
        lambda value: value is None or (is_whole(value) and value == 1), "FBLT has no groups of beams; leave it out"
    ),
    "constraints": Rule(lambda value: value is None, "FBLT has no such search; give `prefix_allowed_tokens_fn`"),
    "force_words_ids": Rule(lambda value: value is None, "FBLT has no such search; give `prefix_allowed_tokens_fn`"),
    "is_assistant": Rule(_is_off, "FBLT drafts for itself alone; leave it out"),
    "low_memory": Rule(_is_off, "transformers has no such beams any more; leave it out"),
    "token_healing": Rule(_is_off, "bytes need none; leave it out"),
}


# Numbers that transformers takes as a float alone, and not always by their name.
_FRACTIONS = ("temperature", "repetition_penalty", "encoder_repetition_penalty", "typical_p")
# transformers compares these with numbers: None among its arguments is as if they were left out.
NEVER_NONE = ("num_beams", "num_return_sequences")


def make_fractions(config: GenerationConfig) -> None:
    """Makes whole numbers floats where transformers asks for floats: 2 is as good as 2.0."""
    for name in _FRACTIONS:
        value = getattr(config, name, None)
        if value is not None:
            setattr(config, name, float(value))


def check_settings(values: dict[str, Any]) -> None:
    """Raises a ValueError for the first setting of `generate` that is none; other names are let through."""
    check_fields(values, OWN)
    check_fields(values, SHARED)
    if values.get("draft_cost") is not None:
        DraftCosts.given(values["draft_cost"])


def check_objects(arguments: dict[str, Any]) -> None:
    """Raises a ValueError for an argument of `generate` that is of another kind, or that asks for what FBLT has not."""
    check_fields(arguments, OBJECTS)


def check_generation_config(config: GenerationConfig | None) -> None:
    """The same as [`check_settings`], of all settings of a config."""
    if config is not None:
        # Where FBLT's own are None there, the model's hold.
        check_settings({name: value for name, value in vars(config).items() if name not in OWN or value is not None})
