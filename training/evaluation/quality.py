"""How good the text of every setting is, for what it costs: greedy, and sampled at two temperatures.

Verified settings write as `ar` does, so they show what the same text costs. `blt-d` takes its drafts as they are, and
trades quality for calls. A text is judged by

- bits per byte under the model's own next-byte head: what it makes of the text, read afresh. Loops are cheap by this
  measure, so it is to be read beside
- distinct 8-grams, and
- the share of its words that occur in the training text: runs of letters, those that the text's ends may cut left out.

Real text that followed the same prompts stands beside.
"""

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from modeling_fblt.configuration_fblt import BYTE_OFFSET

from .drafts import has_draft_head, own_module
from .measures import distinct_ngrams, mean, share
from .samples import Prompt, right_padded
from .traffic import component_parameters
from .writing import NGRAM, costs, readable, write

TEMPERATURES = {"greedy": None, "0.7": 0.7, "1.0": 1.0}
WORD = re.compile(r"[^\W\d_]+")


def verified_settings(model) -> dict[str, dict]:
    """What `generate` is told in settings that write as `ar` does, by the names of tables; the first is `ar`."""
    settings = {
        "ar": {"decoding": "ar"},
        "blt-s 4": {"decoding": "blt-s", "draft_length": 4},
        "blt-s 8": {"decoding": "blt-s", "draft_length": 8},
        "blt-s 8, 2 passes": {"decoding": "blt-s", "draft_length": 8, "refine_steps": 2},
        "blt-s auto": {"decoding": "blt-s", "draft_length": "auto"},
        "ar, lookup": {"decoding": "ar", "prompt_lookup_num_tokens": 8},
    }
    if model.config.block_size is None:
        return settings
    drafts = {"block": {"draft_head": False}} | ({"head": {}} if has_draft_head(model) else {})
    for kind, draft in drafts.items():
        block = {"decoding": "blt-dv", "unmasking": "one_step", **draft}
        settings[f"blt-dv {kind}"] = block
        settings[f"blt-dv {kind}, 1 pass"] = {**block, "refine_steps": 1}
        settings[f"blt-dv {kind}, 2 passes"] = {**block, "refine_steps": 2}
    settings[f"blt-dv {kind} auto"] = {**block, "block_size": "auto", "refine_steps": "auto"}
    settings[f"blt-dv {kind}, lookup"] = {**block, "prompt_lookup_num_tokens": 8}
    return settings


def unverified_settings(model) -> dict[str, dict]:
    """The same of `blt-d`; none without blocks."""
    if model.config.block_size is None:
        return {}
    settings = {
        "blt-d one step": {"unmasking": "one_step", "draft_head": False},
        "blt-d one step, 2 passes": {"unmasking": "one_step", "draft_head": False, "refine_steps": 2},
        "blt-d confidence 0.7": {"unmasking": "confidence", "confidence_threshold": 0.7},
        "blt-d confidence 0.9": {"unmasking": "confidence", "confidence_threshold": 0.9},
        "blt-d entropy 1": {"unmasking": "entropy", "entropy_bound": 1.0},
    }
    if has_draft_head(model):
        in_order = {
            f"blt-d head, {threshold:g}": {"unmasking": "sequential", "confidence_threshold": threshold}
            for threshold in (0.5, 0.7, 0.9)
        }
        settings |= {
            "blt-d head": {"unmasking": "one_step"},
            "blt-d head, 1 pass": {"unmasking": "one_step", "refine_steps": 1},
            "blt-d head, 2 passes": {"unmasking": "one_step", "refine_steps": 2},
            **in_order,
        }
    return {name: {"decoding": "blt-d", **rest} for name, rest in settings.items()}


def known_to(model, settings: dict[str, dict]) -> dict[str, dict]:
    """Those settings that the code a model carries knows: that of before may not."""
    fields = own_module(model, "generation_config_fblt").DecodingSettings.__dataclass_fields__
    return {name: given for name, given in settings.items() if set(given) <= set(fields)}


def words_of(texts: Iterable[str]) -> set[str]:
    """The different words of texts."""
    return {word for text in texts for word in WORD.findall(text)}


def known_words(text: str, vocabulary: set[str]) -> tuple[int, int]:
    """How many words of a text are in a vocabulary, and how many there are; what its ends may cut is left out."""
    inner = [match for match in WORD.finditer(text) if 0 < match.start() and match.end() < len(text)]
    return sum(match.group() in vocabulary for match in inner), len(inner)


@torch.inference_mode()
def bits_of(model, prompts: Sequence[Prompt], texts: Sequence[Sequence[int]], batch_size: int) -> list[tuple]:
    """Bits and bytes of each text after its prompt, under the next-byte head; special ids are not counted."""
    found = []
    for first in range(0, len(texts), batch_size):
        rows = [
            np.concatenate([prompt.ids, np.asarray(text, dtype=np.int64)])
            for prompt, text in zip(prompts[first : first + batch_size], texts[first : first + batch_size], strict=True)
        ]
        ids, lengths = right_padded(rows, model.device)
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        logits = model(ids, attention_mask=real.long(), use_cache=False).logits[:, :-1].float()
        bits = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none") / math.log(2)
        place = torch.arange(1, ids.shape[1], device=ids.device)
        begin = torch.tensor([len(prompt.ids) for prompt in prompts[first : first + batch_size]], device=ids.device)
        counted = real[:, 1:] & (place >= begin[:, None]) & (ids[:, 1:] >= BYTE_OFFSET)
        found += zip((bits * counted).sum(1).tolist(), counted.sum(1).tolist(), strict=True)
    return found


def text_figures(model, prompts, texts, vocabulary: set[str] | None, batch_size: int) -> dict:
    """Quality of texts, with standard errors over texts: see the head of this file."""
    bits = bits_of(model, prompts, texts, batch_size)
    figures = {
        "bits_per_byte": share(sum(b for b, _ in bits), sum(n for _, n in bits)),
        "bits_per_byte_error": _error([share(b, n) for b, n in bits]),
        "distinct_8grams": mean([distinct_ngrams(text, NGRAM) for text in texts]),
        "known_words": None,
        "known_words_error": None,
    }
    if vocabulary is not None:
        counts = [known_words(readable(text), vocabulary) for text in texts]
        figures["known_words"] = share(sum(k for k, _ in counts), sum(n for _, n in counts))
        figures["known_words_error"] = _error([share(k, n) for k, n in counts])
    return figures


def _error(values: Sequence[float | None]) -> float | None:
    """Standard error of the mean of the values that are there."""
    present = [value for value in values if value is not None]
    return float(np.std(present, ddof=1) / len(present) ** 0.5) if len(present) > 1 else None


def quality_figures(
    model,
    prompts: Sequence[Prompt],
    new_bytes: int,
    batch_size: int,
    seed: int,
    vocabulary: set[str] | None,
    temperatures: Iterable[str] = tuple(TEMPERATURES),
) -> dict:
    """Quality and cost of the text of every setting.

    Args:
        vocabulary: words of the training text; None where there is none, and no share of words then.

    Returns:
        `prompts`, `new_bytes`, `real_text` (quality), and `settings`: by temperature and by name of the setting, the
        quality, `costs` per byte, and whether it is `verified`.
    """
    parameters, real = component_parameters(model), [prompt.reference.tolist() for prompt in prompts]
    verified, unverified = (known_to(model, s) for s in (verified_settings(model), unverified_settings(model)))
    found: dict[str, dict] = {}
    for temperature in temperatures:
        for name, settings in (verified | unverified).items():
            # One seed for all, so that chance is as much the same as it can be.
            torch.manual_seed(seed)
            texts, counters = write(model, prompts, settings, new_bytes, batch_size, TEMPERATURES[temperature])
            found.setdefault(temperature, {})[name] = {
                "settings": settings,
                "verified": name in verified,
                **text_figures(model, prompts, texts, vocabulary, batch_size),
                **costs(counters, sum(map(len, texts)), parameters),
            }
    return {
        "prompts": len(prompts),
        "new_bytes": new_bytes,
        "real_text": text_figures(model, prompts, real, vocabulary, batch_size),
        "settings": found,
    }
