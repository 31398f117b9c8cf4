# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Which logits processors drafts may be judged with, and what no processor can bring about.

Verified decodings show a processor prefixes of drafts: several per round, some of which never become text, some twice.
That changes nothing for a pure function of the prefix and its scores, as nearly all processors are. One that counts
calls or keeps a cache of its own would see other calls than in plain decoding, and the text would differ. So only
processors that are known to be pure, or say so, go with drafts; with any other the text is written by plain decoding,
one call per byte.

A processor of a user's own says so by an attribute of its class or of the object: `pure_in_prefix = True`.
"""

import torch
from transformers import LogitsProcessor
from transformers.generation import logits_process

# transformers' own, by name: not every release has all of them.
_PURE_NAMES = (
    "EncoderNoRepeatNGramLogitsProcessor",
    "EncoderRepetitionPenaltyLogitsProcessor",
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "ExponentialDecayLengthPenalty",
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
    "InfNanRemoveLogitsProcessor",
    "LogitNormalization",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "MinPLogitsWarper",
    "NoBadWordsLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "PrefixConstrainedLogitsProcessor",
    "RepetitionPenaltyLogitsProcessor",
    "SequenceBiasLogitsProcessor",
    "SuppressTokensAtBeginLogitsProcessor",
    "SuppressTokensLogitsProcessor",
    "TemperatureLogitsWarper",
    "TopHLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TypicalLogitsWarper",
    "WatermarkLogitsProcessor",
)
PURE = frozenset(getattr(logits_process, name) for name in _PURE_NAMES if hasattr(logits_process, name))
# The argument of `generate` that makes a processor which is not pure.
_ARGUMENTS = {
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": "guidance_scale",
    "SynthIDTextWatermarkLogitsProcessor": "watermarking_config",
}
NONE_LEFT = (
    "the scores of every byte are -inf or NaN where one is to be written: leave at least one byte (ids 4 .. 259) or "
    "`</s>` (id 2) allowed in `suppress_tokens`, `bad_words_ids`, `prefix_allowed_tokens_fn`, `valid_utf8` and "
    "`logits_processor`; without any of them, the weights or their dtype overflow"
)


def is_pure(processor) -> bool:
    """Whether a processor's answer hangs on its prefix and its scores alone: it says so, or is known."""
    return bool(getattr(processor, "pure_in_prefix", type(processor) in PURE))


def argument_of(processor) -> str:
    """What a user gave to have this processor: an argument of `generate`, with the class where that says more."""
    name = type(processor).__name__
    return f"`{_ARGUMENTS[name]}`" if name in _ARGUMENTS else f"`logits_processor` ({name})"


class FBLTLastProcessor(LogitsProcessor):
    """Comes after all other processors: whatever these say, `<mask>` is never written, and what `valid_utf8` rules out
    stays ruled out. (transformers' prefix constraint brings ids back that were ruled out before it.)

    Args:
        mask_id: the id of `<mask>`.
        utf8: the processor that keeps text valid UTF-8, if there is one.
        refuses: raises a ValueError where nothing is left to choose, which waits for the device. The loop of `generate`
            finds that out by itself, see [`dead_ends`].
    """

    pure_in_prefix = True

    def __init__(self, mask_id: int, utf8: LogitsProcessor | None = None, refuses: bool = False):
        self.mask_id, self.utf8, self.refuses = mask_id, utf8, refuses

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """`[batch, columns]` ids and `[batch, vocab]` scores -> `[batch, vocab]` scores.

        Raises:
            TypeError: a processor before it returned no scores.
        """
        if not isinstance(scores, torch.Tensor):
            raise TypeError(f"`logits_processor` returned {scores!r}: let each return its scores, `[batch, vocab]`.")
        if self.utf8 is not None:
            scores = self.utf8(input_ids, scores)
        scores = without_mask(scores, self.mask_id)
        if self.refuses and bool(dead_ends(scores).any()):
            raise ValueError(f"`logits_processor`: {NONE_LEFT}.")
        return scores


def without_mask(scores: torch.Tensor, mask_id: int) -> torch.Tensor:
    """`[..., vocab]` scores, with -inf for `<mask>`."""
    return scores.masked_fill(torch.arange(scores.shape[-1], device=scores.device) == mask_id, -torch.inf)


def has_choice(scores: torch.Tensor) -> torch.Tensor:
    """Where there is an id to choose: `[...]` of `[..., vocab]`."""
    return scores.amax(-1) > torch.finfo(scores.dtype).min


def dead_ends(scores: torch.Tensor) -> torch.Tensor:
    """Where no id is left to choose, or scores are NaN: `[...]` of `[..., vocab]`."""
    return ~has_choice(scores)


def find_processor(processors, attribute: str):
    """The first of some processors that has an attribute which is true; None where none has."""
    return next((p for p in processors if getattr(p, attribute, False)), None)


__all__ = ["FBLTLastProcessor"]
