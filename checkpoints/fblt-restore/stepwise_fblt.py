# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""transformers' own loops, sampling and beams, a forward call per byte: what they need to be right for FBLT.

They take the logits of the last column for every row's next byte, slice by columns what a cache does not hold, and know
nothing of characters. So padding is moved to the left before them, a cache is taken back to where all rows have the
same number of bytes to feed, `<mask>` is ruled out, and a character that a stop has cut is taken back after them.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers.generation import LogitsProcessorList, StoppingCriteriaList

from .cache_fblt import FBLTCache
from .compatibility_fblt import CACHE_NAME
from .padding_fblt import RightPadded
from .processors_fblt import FBLTLastProcessor, find_processor
from .stopping_fblt import Criteria
from .utf8_fblt import open_bytes, utf8_state, valid_prefix


def step_by_step(
    loop: Callable,
    input_ids: torch.Tensor,
    rows: RightPadded,
    processors: LogitsProcessorList,
    criteria: StoppingCriteriaList,
    generation_config,
    mask_id: int,
    **arguments: Any,
) -> Any:
    """Runs `loop`, a decoding of transformers, on rows whose padding may stand anywhere.

    Args:
        input_ids: `[batch, n]`, the columns given, which come back in the result.
        rows: the same, with the padding on the right.
    """
    cache = arguments.get(CACHE_NAME)
    if cache is not None:
        _take_back_to_one_column(cache, rows)
    if rows.columns is not None:
        arguments["attention_mask"] = rows.left_mask()
    last = FBLTLastProcessor(mask_id, find_processor(processors, "keeps_utf8"), refuses=True)
    processors = LogitsProcessorList([*processors, last])
    result = loop(rows.left_padded(), processors, criteria, generation_config, **arguments)
    sequences = result if isinstance(result, torch.Tensor) else result.sequences
    sequences[:, : input_ids.shape[1]] = _prompts(input_ids, generation_config)
    if getattr(generation_config, "valid_utf8", False):
        return _without_cut_characters(result, sequences, rows, Criteria(criteria).eos, generation_config)
    return result


def _prompts(values: torch.Tensor, generation_config) -> torch.Tensor:
    """Of `values` by row of the loop, which beams repeat, those by row of its result."""
    returned = generation_config.num_return_sequences or 1
    repeated = max(generation_config.num_beams or 1, returned)
    row = torch.arange(len(values) // repeated * returned, device=values.device)
    return values[row // returned * repeated]


def _take_back_to_one_column(cache: FBLTCache, rows: RightPadded) -> None:
    """Takes rows of a cache back until all have the same number of bytes left to feed.

    Raises:
        ValueError: a row would go back farther than the cache can.
    """
    if cache.max_length:
        left = (rows.lengths - cache.lengths).max()
        cache.truncate((rows.lengths - left).clamp(min=0))
        cache.columns = rows.ids.shape[1] - int(left)


def _without_cut_characters(result, sequences: torch.Tensor, rows: RightPadded, eos, generation_config) -> Any:
    """The result of a loop without characters that a stop has cut: these columns become padding."""
    n = rows.ids.shape[1]
    before = _prompts(rows.left_padded(), generation_config)
    new = sequences[:, n:].clamp(min=0)  # beams without stop ids are filled up with -1
    # A row ends with its first stop id. Where a criterion ended it, filling follows, which no open character allows.
    lengths = torch.full_like(new[:, 0], new.shape[1])
    if eos is not None:
        stops = torch.isin(new, eos.to(new.device))
        lengths = torch.where(stops.any(1), stops.long().argmax(1) + 1, lengths)
    lengths = valid_prefix(utf8_state(before), new, lengths)
    whole = torch.cat([before, new], dim=1)
    kept = lengths - torch.minimum(open_bytes(whole, n + lengths), lengths)
    pad = generation_config.pad_token_id or 0
    filling = torch.arange(new.shape[1], device=new.device) >= kept[:, None]
    new = new.masked_fill(filling, pad)[:, : int(kept.max())]
    sequences = torch.cat([sequences[:, :n], new], dim=1)
    if isinstance(result, torch.Tensor):
        return sequences
    result.sequences = sequences
    for name in ("scores", "logits", "attentions", "hidden_states"):
        steps = getattr(result, name, None)
        if steps is not None:
            setattr(result, name, steps[: new.shape[1]])
    cache = getattr(result, CACHE_NAME, None)
    if cache is not None and len(cache.lengths) == len(kept) == len(rows.lengths):
        held = (rows.lengths + kept - 1).clamp(min=0)
        cache.truncate(torch.minimum(cache.lengths, held))
    return result
