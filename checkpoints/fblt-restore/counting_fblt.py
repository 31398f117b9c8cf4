# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Constants that a step would otherwise launch operators to make: consecutive numbers, and single ones.

Masks, columns and positions are made of them. They are shared, and never to be written to.
"""

import functools

import torch

_KNOWN: dict[torch.device, torch.Tensor] = {}
_FEWEST = 2048


def counting(end: int, device: torch.device, start: int = 0) -> torch.Tensor:
    """`start, start + 1, ..., end - 1` as int64: a view of numbers kept per device."""
    if start < 0 or torch.compiler.is_compiling():
        return torch.arange(start, end, device=device)
    known = _KNOWN.get(device)
    if known is None or len(known) < end:
        with torch.inference_mode(False):  # training may need them too
            known = torch.arange(max(_FEWEST, 2 * end), device=device)
        if type(known) is not torch.Tensor:  # some tracer's stand-in, which must not outlive the tracing
            return known[start:end]
        _KNOWN[device] = known
    return known[start:end]


@functools.cache
def scalar(value: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """`value` as a tensor without dimensions."""
    with torch.inference_mode(False):
        return torch.tensor(value, dtype=dtype, device=device)
