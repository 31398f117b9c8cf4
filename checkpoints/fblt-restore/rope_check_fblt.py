# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Which rotary embeddings FBLT takes, and what each of them needs."""

import math
from typing import Any

from .fields_fblt import between, check_fields, choice, flag, number, whole

# Frequencies of these depend on the length of the text so far: keys that a cache holds would have been turned by others
# than a full pass turns them by, and verified decoding would not write what plain decoding writes.
LENGTH_DEPENDENT = ("dynamic", "longrope")
# By type: what must be there.
REQUIRED = {
    "default": (),
    "linear": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "proportional": (),
}
_POSITIVE = between(0, math.inf)
_OPTIONAL = between(0, math.inf, None)
RULES = {
    "rope_type": choice(*REQUIRED),
    "rope_theta": _POSITIVE,
    "factor": _POSITIVE,
    "partial_rotary_factor": number(0, 1),
    "original_max_position_embeddings": whole(1, 1 << 40),
    "low_freq_factor": _POSITIVE,
    "high_freq_factor": _POSITIVE,
    "beta_fast": _OPTIONAL,
    "beta_slow": _OPTIONAL,
    "attention_factor": _OPTIONAL,
    "mscale": _OPTIONAL,
    "mscale_all_dim": _OPTIONAL,
    "truncate": flag(),
}
_NO_SETTINGS = ("type",)  # what `rope_type` was called once


def check_rope_parameters(rope: Any, name: str) -> None:
    """Refuses rotary embeddings that the model would ignore in part, or that decoding could not be exact with.

    Args:
        rope: `rope_parameters` in transformers' form.
        name: what messages call it.

    Raises:
        ValueError: names the entry, its value and the remedy.
    """
    if not isinstance(rope, dict):
        raise ValueError(f"`{name}` is {rope!r}: give a dict such as {{'rope_type': 'default', 'rope_theta': 1e4}}.")
    kind = rope.get("rope_type")
    if kind in LENGTH_DEPENDENT:
        raise ValueError(
            f"`{name}['rope_type']` is {kind!r}: its frequencies change as a text grows, so that cached keys and a "
            "full pass would differ; choose 'yarn', 'llama3' or 'linear', whose frequencies are fixed."
        )
    for entry, value in rope.items():
        if entry not in RULES and entry not in _NO_SETTINGS:
            raise ValueError(f"`{name}[{entry!r}]` is {value!r}: FBLT has no such setting; leave it out.")
    for entry, rule in RULES.items():
        if entry in rope:
            check_fields({entry: rope[entry]}, {entry: rule}, f"{name}.")
    for entry in ("rope_type", "rope_theta", *REQUIRED.get(kind, ())):
        if entry not in rope:
            raise ValueError(f"`{name}` has no {entry!r}, which rope_type {kind!r} needs: give it.")
    if kind != "proportional" and rope.get("partial_rotary_factor", 1) != 1:
        raise ValueError(
            f"`{name}['partial_rotary_factor']` is {rope['partial_rotary_factor']!r} with rope_type {kind!r}: FBLT "
            "turns all of a head there; leave it out, or choose rope_type 'proportional', which turns a part."
        )
    if kind == "llama3" and rope["low_freq_factor"] >= rope["high_freq_factor"]:
        raise ValueError(
            f"`{name}['low_freq_factor']` is {rope['low_freq_factor']!r}: give less than 'high_freq_factor', "
            f"{rope['high_freq_factor']!r}."
        )
