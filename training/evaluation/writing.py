"""What each decoding writes by itself: repetition, calls, acceptance, and whether verified decodings equal `ar`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from modeling_fblt.configuration_fblt import BYTE_OFFSET

from .drafts import has_draft_head
from .measures import distinct_ngrams, first_difference, mean, share
from .samples import Prompt
from .traffic import calls, component_parameters, traffic_gb

DECODINGS = ("ar", "blt-s", "blt-d", "blt-dv")
VERIFIED = ("blt-s", "blt-dv")
NGRAM = 8
# Logits of two orders of summation differ by about 1e-5 in float32: two bytes closer than this are a near-tie.
NEAR_TIE = 1e-4


def settings_of(model) -> dict[str, dict]:
    """Each decoding as it is judged: `blt-d` unmasks in steps, from left to right where a draft head says how."""
    unmasking = "sequential" if has_draft_head(model) else "confidence"
    return {
        "ar": {"decoding": "ar"},
        "blt-s": {"decoding": "blt-s", "draft_length": 8},
        "blt-d": {"decoding": "blt-d", "unmasking": unmasking, "confidence_threshold": 0.7},
        "blt-dv": {"decoding": "blt-dv", "unmasking": "one_step"},
    }


@dataclass
class Counters:
    """Counters of a generation, `[rows, ...]` each, under the names that `FBLTGenerateOutput` gives them."""

    decoder_nfe: torch.Tensor
    encoder_nfe: torch.Tensor
    global_nfe: torch.Tensor
    patcher_nfe: torch.Tensor
    draft_head_nfe: torch.Tensor
    drafted: torch.Tensor
    accepted: torch.Tensor
    iterations: torch.Tensor
    acceptance: torch.Tensor

    @classmethod
    def joined(cls, outputs: Sequence) -> "Counters":
        """The counters of several batches."""
        return cls(**{name: torch.cat([cls._of(o, name) for o in outputs]).cpu() for name in cls.__dataclass_fields__})

    @staticmethod
    def _of(output, name: str) -> torch.Tensor:
        """An output's counter; zeros where the model's code knows no draft heads."""
        return torch.zeros_like(output.iterations) if not hasattr(output, name) else getattr(output, name)

    def first(self, rows: int) -> "Counters":
        """The counters of the first `rows` rows."""
        return Counters(**{name: value[:rows] for name, value in vars(self).items()})


def write(
    model,
    prompts: Sequence[Prompt],
    settings: dict,
    new_bytes: int,
    batch_size: int,
    temperature: float | None = None,
) -> tuple[list[list[int]], Counters]:
    """Continuations of equally long prompts: greedy, or sampled at a temperature.

    Returns:
        One list of new ids per prompt, up to and with `</s>` where it was written, and the counters.
    """
    texts, outputs = [], []
    sampling = {"do_sample": False} if temperature is None else sampling_at(temperature)
    eos = model.config.eos_token_id
    for first in tqdm(range(0, len(prompts), batch_size), desc=f"writing, {settings['decoding']}", unit="batch"):
        ids = torch.from_numpy(np.stack([prompt.ids for prompt in prompts[first : first + batch_size]])).to(
            model.device
        )
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_bytes,
            return_dict_in_generate=True,
            **sampling,
            **settings,
        )
        for row in output.sequences[:, ids.shape[1] :].tolist():
            texts.append(row[: row.index(eos) + 1] if eos in row else row)
        outputs.append(output)
    return texts, Counters.joined(outputs)


def sampling_at(temperature: float) -> dict:
    """What `generate` is told to sample from the whole distribution."""
    return {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}


@torch.inference_mode()
def describe_difference(model, prompt: Prompt, plain: list[int], other: list[int], index: int) -> dict:
    """How close the two texts' bytes at their first difference are for the model, in logits of a full float32 pass."""
    ids = torch.tensor([[*prompt.ids.tolist(), *plain[:index]]], device=model.device)
    logits = model(ids, use_cache=False).logits[0, -1].float()
    top = logits.topk(2)
    pair = [text[index] if index < len(text) else None for text in (plain, other)]
    both_on_top = {byte for byte in pair if byte is not None} == set(top.indices.tolist())
    gap = float(top.values[0] - top.values[1])
    return {"position": index, "ids": pair, "top_2_gap": gap, "near_tie": both_on_top and gap < NEAR_TIE}


def equality(model, prompts: Sequence[Prompt], plain: list[list[int]], other: list[list[int]]) -> dict:
    """How many texts of a verified decoding are `ar`'s, and a description of each difference."""
    differences = []
    for number, (prompt, one, two) in enumerate(zip(prompts, plain, other, strict=True)):
        index = first_difference(one, two)
        if index is not None:
            differences.append({"prompt": number, **describe_difference(model, prompt, one, two, index)})
    return {"prompts": len(prompts), "equal": len(prompts) - len(differences), "differences": differences}


def writing_figures(
    model, prompts: Sequence[Prompt], free: int, exact: int, new_bytes: int, batch_size: int, samples: int
) -> dict:
    """Free text of every decoding.

    Args:
        prompts: at least `max(free, exact)`, equally long.
        free: how many of them the figures are taken from.
        exact: how many of them verified decodings are compared with `ar` on.
        samples: how many texts to keep.

    Returns:
        `distinct_8grams`: distinct / all 8-grams of the new bytes of a text, averaged over texts, of the reference too;
        per decoding its calls per byte, global calls per iteration, acceptance (and rounds by how many drafted bytes
        they kept) and traffic; `equality`; `samples`.
    """
    parameters = component_parameters(model)
    texts: dict[str, list[list[int]]] = {}
    decodings = {}
    for name, settings in settings_of(model).items():
        wanted = max(free, exact) if name == "ar" or name in VERIFIED else free
        texts[name], counters = write(model, prompts[:wanted], settings, new_bytes, batch_size)
        decodings[name] = {
            "settings": settings,
            "distinct_8grams": mean([distinct_ngrams(text, NGRAM) for text in texts[name][:free]]),
            **costs(counters.first(free), sum(len(text) for text in texts[name][:free]), parameters),
        }
    plain = decodings["ar"]
    for figures in decodings.values():
        figures["distinct_8grams_to_ar"] = share(figures["distinct_8grams"], plain["distinct_8grams"])
        for name in ("traffic_mb_per_byte", "traffic_with_patcher_mb_per_byte"):
            figures[f"{name}_to_ar"] = share(figures[name], plain[name])
    return {
        "prompts": free,
        "new_bytes": new_bytes,
        "reference_distinct_8grams": mean([distinct_ngrams(p.reference.tolist(), NGRAM) for p in prompts[:free]]),
        "decodings": decodings,
        "equality": {
            name: equality(model, prompts[:exact], texts["ar"][:exact], texts[name][:exact]) for name in VERIFIED
        },
        "samples": [
            {
                "source": prompt.source,
                "prompt": readable(prompt.ids.tolist()),
                "reference": readable(prompt.reference.tolist()),
                **{name: readable(texts[name][number]) for name in DECODINGS},
            }
            for number, prompt in enumerate(prompts[: min(samples, free)])
        ],
    }


def costs(counters: Counters, written: int, parameters: dict[str, int]) -> dict:
    """Calls and Eq. 8 traffic per new byte, in MB of bfloat16 weights; the prompt's own calls are counted too."""
    per_byte = {name: count / written for name, count in calls(counters).items()}
    return {
        "bytes": written,
        **{f"{name}_calls_per_byte": value for name, value in per_byte.items()},
        "global_calls_per_iteration": share(int(counters.global_nfe.sum()), int(counters.iterations.sum())),
        "bytes_per_iteration": share(written, int(counters.iterations.sum())),
        "acceptance": share(int(counters.accepted.sum()), int(counters.drafted.sum())),
        "acceptance_histogram": counters.acceptance.sum(0).tolist(),
        "traffic_mb_per_byte": 1e3 * traffic_gb(per_byte, parameters),
        "traffic_with_patcher_mb_per_byte": 1e3 * traffic_gb(per_byte, parameters, with_patcher=True),
    }


def readable(ids: Sequence[int]) -> str:
    """The text of ids, special ones left out; bytes that are no UTF-8 as U+FFFD."""
    return bytes(i - BYTE_OFFSET for i in ids if BYTE_OFFSET <= i < BYTE_OFFSET + 256).decode("utf-8", "replace")
