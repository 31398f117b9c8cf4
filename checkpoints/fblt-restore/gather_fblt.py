# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Picking entries of a tensor by index, in the way that has the cheapest gradient on CPUs."""

import torch

from .counting_fblt import counting


def take_entries(entries: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`entries[index]`: `[entries, width]`, `[...]` -> `[..., width]`."""
    return entries.gather(0, index.flatten()[:, None].expand(-1, entries.shape[1])).unflatten(0, index.shape)


def take_columns(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values[b, index[b, i]]`: `[batch, columns, ...]`, `[batch, n]` -> `[batch, n, ...]`."""
    trailing = values.shape[2:]
    if len(index) == 1:
        return take_entries(values[0].reshape(-1, trailing.numel()), index[0]).view(*index.shape, *trailing)
    first = counting(len(index), index.device)[:, None] * values.shape[1]
    entries = values.reshape(len(values) * values.shape[1], trailing.numel())
    return take_entries(entries, index + first).view(*index.shape, *trailing)
