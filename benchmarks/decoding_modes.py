"""The settings of `generate` that the benchmark of decodings compares, by the names of its tables and figures."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from fblt.training.evaluation.drafts import has_draft_head
from fblt.training.evaluation.writing import sampling_at

# Byte by byte, then as what is drafted grows.
ANY_MODEL = {
    "ar": {"decoding": "ar"},
    "blt-s 4": {"decoding": "blt-s", "draft_length": 4},
    "blt-s 8": {"decoding": "blt-s", "draft_length": 8},
    "blt-s 16": {"decoding": "blt-s", "draft_length": 16},
    "blt-s auto": {"decoding": "blt-s", "draft_length": "auto"},
    "blt-s 8, two calls": {"decoding": "blt-s", "draft_length": 8, "paper_passes": True},
    "blt-s 8, 2 passes": {"decoding": "blt-s", "draft_length": 8, "refine_steps": 2},
    "ar, lookup": {"decoding": "ar", "prompt_lookup_num_tokens": 8},
}
ONE_STEP = {"decoding": "blt-dv", "unmasking": "one_step", "draft_head": False}
# Without the draft head, whether there is one or not.
WITH_BLOCKS = {
    "blt-dv one-step": ONE_STEP,
    "blt-dv confidence": {"decoding": "blt-dv", "unmasking": "confidence"},
    "blt-dv auto": {**ONE_STEP, "block_size": "auto"},
    "blt-dv 1 pass": {**ONE_STEP, "refine_steps": 1},
    "blt-dv 2 passes": {**ONE_STEP, "refine_steps": 2},
    "blt-dv lookup": {**ONE_STEP, "prompt_lookup_num_tokens": 8},
    "blt-dv patch anchor": {**ONE_STEP, "block_anchor": "patch"},
    "blt-dv two calls": {**ONE_STEP, "paper_passes": True},
    "blt-d one-step": {**ONE_STEP, "decoding": "blt-d"},
    "blt-d confidence": {"decoding": "blt-d", "unmasking": "confidence"},
    "blt-d entropy": {"decoding": "blt-d", "unmasking": "entropy"},
    "blt-d close patch": {"decoding": "blt-d", "unmasking": "confidence", "close_patch": True},
}
HEAD = {"decoding": "blt-dv", "unmasking": "one_step"}
WITH_HEAD = {
    "blt-dv head": HEAD,
    "blt-dv head, 1 pass": {**HEAD, "refine_steps": 1},
    "blt-dv head, 2 passes": {**HEAD, "refine_steps": 2},
    "blt-dv head auto": {**HEAD, "block_size": "auto", "refine_steps": "auto"},
    "blt-dv head, lookup": {**HEAD, "prompt_lookup_num_tokens": 8},
    "blt-d head": {**HEAD, "decoding": "blt-d"},
    "blt-d head, 0.7": {"decoding": "blt-d", "unmasking": "sequential", "confidence_threshold": 0.7},
}
TEMPERATURES = (0.7, 1.0)
# What is sampled too.
SAMPLED = (
    "ar",
    "blt-s 4",
    "blt-s 8",
    "blt-s auto",
    "blt-s 8, 2 passes",
    "blt-dv one-step",
    "blt-dv 2 passes",
    "blt-dv head",
    "blt-dv head, 1 pass",
    "blt-dv head, 2 passes",
    "blt-dv head auto",
    "blt-d head, 0.7",
)


def modes_of(model, only: Sequence[str] = ()) -> dict[str, dict]:
    """Settings of `generate` for every mode that a model can serve: the greedy ones, then those at each temperature.

    Args:
        only: patterns of names, as a shell has them; plain decoding at the same temperatures is always there.

    Raises:
        ValueError: a pattern that no mode fits.
    """
    greedy = ANY_MODEL | (WITH_BLOCKS if model.config.block_size is not None else {})
    greedy |= WITH_HEAD if has_draft_head(model) else {}
    modes = dict(greedy)
    for temperature in TEMPERATURES:
        modes |= {
            f"{name} at {temperature}": {**greedy[name], **sampling_at(temperature)}
            for name in SAMPLED
            if name in greedy
        }
    for pattern in only:
        if not any(fnmatchcase(name, pattern) for name in modes):
            raise ValueError(f"--only {pattern!r}: fits none of {', '.join(modes)}")
    if not only:
        return modes
    kept = {name for name in modes if any(fnmatchcase(name, pattern) for pattern in only)}
    kept |= {plain_of(name) for name in kept}
    return {name: settings for name, settings in modes.items() if name in kept}


def plain_of(name: str) -> str:
    """Plain decoding at the temperature of a mode."""
    _, sampled, temperature = name.partition(" at ")
    return f"ar at {temperature}" if sampled else "ar"


def writes_as_plain(name: str, settings: dict) -> bool:
    """Whether a mode's texts are to be plain decoding's, byte for byte."""
    return name != "ar" and settings["decoding"] != "blt-d" and not settings.get("do_sample")
