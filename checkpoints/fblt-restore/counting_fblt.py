# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Constants that a step would otherwise launch operators to make: consecutive numbers, single ones, common masks.

Masks, columns and positions are made of them. They are shared, and never to be written to.
"""

from collections.abc import Callable, Hashable

import torch

_NUMBERS: dict[torch.device, torch.Tensor] = {}
_LOWEST, _FEWEST = -64, 2048
_KEPT: dict[Hashable, torch.Tensor] = {}


def _kept(store: dict, key: Hashable, make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Makes a constant, and keeps it for later calls."""
    with torch.inference_mode(False):  # training may need it too
        value = make()
    if type(value) is torch.Tensor:  # else some tracer's stand-in, which must not outlive the tracing
        store[key] = value
    return value


def constant(key: Hashable, make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What `make` gives, made once for `key`, which names its device too."""
    if torch.compiler.is_compiling():
        return make()
    known = _KEPT.get(key)
    return _kept(_KEPT, key, make) if known is None else known


def counting(end: int, device: torch.device, start: int = 0) -> torch.Tensor:
    """`start, start + 1, ..., end - 1` as int64: a view of numbers kept per device."""
    if start < _LOWEST or torch.compiler.is_compiling():
        return torch.arange(start, end, device=device)
    known = _NUMBERS.get(device)
    if known is None or len(known) < end - _LOWEST:
        known = _kept(_NUMBERS, device, lambda: torch.arange(_LOWEST, max(_FEWEST, 2 * end), device=device))
    return known[start - _LOWEST : end - _LOWEST]


def counted_from(numbers: torch.Tensor) -> int | None:
    """Where `numbers` `[batch, n]` begin if all rows are one view that [`counting`] gave, and so known on the host."""
    known = _NUMBERS.get(numbers.device)
    if known is None or type(numbers) is not torch.Tensor or torch.compiler.is_compiling():
        return None
    if numbers.untyped_storage().data_ptr() != known.untyped_storage().data_ptr():
        return None
    between, step = numbers.stride()
    if (between and len(numbers) > 1) or (step != 1 and numbers.shape[1] > 1):
        return None
    return numbers.storage_offset() + _LOWEST


def descending(count: int, device: torch.device) -> torch.Tensor:
    """`count - 1, ..., 1, 0` as int64."""
    return constant(("descending", count, device), lambda: torch.arange(count - 1, -1, -1, device=device))


def scalar(value: float, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """`value` as a tensor without dimensions."""
    return constant((value, dtype, device), lambda: torch.full((), value, dtype=dtype, device=device))


def one_of(index: int, count: int, device: torch.device) -> torch.Tensor:
    """`[count]` booleans, True at `index` alone."""
    return constant(("one_of", index, count, device), lambda: torch.arange(count, device=device) == index)
