"""Generating again and again from the same prefix, which is read only once."""

from typing import Any

import torch

from modeling_fblt.cache_fblt import RETAINED
from modeling_fblt.compatibility_fblt import CACHE_NAME

from .harness import Stopwatch

# What a cache can always be taken back by, and some room for drafts.
MOST_NEW = RETAINED - 6


class Prefix:
    """A prompt `[batch, n]` whose bytes but the last stand in a cache.

    Attributes:
        ids: the prompt.
        cache: `FBLTCache` of its first `n - 1` bytes, between generations.
    """

    def __init__(self, ids: torch.Tensor, cache):
        self.ids, self.cache = ids, cache

    @classmethod
    @torch.inference_mode()
    def read(cls, model, ids: torch.Tensor) -> "Prefix":
        return cls(ids, model(ids[:, :-1], use_cache=True).past_key_values)

    def generate(self, model, new_bytes: int, stopwatch: Stopwatch | None = None, **settings: Any):
        """Greedy text after the prefix, never ended by `</s>`; the cache is taken back afterwards.

        Raises:
            ValueError: more than `MOST_NEW` bytes, of which a cache may have dropped some.
        """
        if new_bytes > MOST_NEW:
            raise ValueError(
                f"`new_bytes` is {new_bytes}: give at most {MOST_NEW}, which a cache can be taken back by."
            )
        output = model.generate(
            self.ids,
            attention_mask=torch.ones_like(self.ids),
            **{CACHE_NAME: self.cache},
            do_sample=False,
            eos_token_id=None,
            max_new_tokens=new_bytes,
            streamer=stopwatch,
            return_dict_in_generate=True,
            **settings,
        )
        with torch.inference_mode():
            self.cache.truncate(torch.full_like(self.cache.lengths, self.ids.shape[1] - 1))
        return output
