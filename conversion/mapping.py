# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Plans of what to write: each tensor with what it is read from, once every key and shape has been checked."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from .tensor_readers import TensorReader, check_float
from .weight_names import IGNORED, WITHOUT_COUNTERPART, Link, Shape
from .writing import Entry


class MappingError(ValueError):
    """A key or a shape that does not fit."""


@dataclass
class Plan:
    """What a conversion will write.

    Attributes:
        entries: the tensors, in order.
        ignored: keys of the source left out, with the reason.
    """

    entries: list[Entry]
    ignored: dict[str, str] = field(default_factory=dict)


def _fits(key: str, found: Shape, wanted: Shape, purpose: str) -> None:
    if tuple(found) != tuple(wanted):
        raise MappingError(f"{key}: has shape {list(found)}, but {purpose} needs {list(wanted)}")


def _sort_out(tensors: TensorReader, used: set[str], rules: dict[str, str]) -> dict[str, str]:
    """The keys that no tensor needs, with the reason that each may be left out."""
    ignored = {}
    for key in tensors.shapes:
        if key in used:
            continue
        reason = next((why for pattern, why in rules.items() if re.fullmatch(pattern, key)), None)
        if reason is None:
            raise MappingError(f"{key}: has shape {list(tensors.shapes[key])}, but no tensor of the model takes it")
        ignored[key] = reason
    return ignored


def plan_import(
    tensors: TensorReader,
    table: list[Link],
    shapes: dict[str, Shape],
    scheme: str,
    dtype: torch.dtype | None,
    ignored: dict[str, str] | None = None,
) -> Plan:
    """Tensors of an FBLT from those of a BLT.

    Args:
        tensors: the BLT's.
        table: see [`weight_names.links`].
        shapes: of every tensor of the FBLT.
        dtype: to write in; each tensor's own when None.
        ignored: patterns of keys to leave out, beside the scheme's, with reasons.

    Raises:
        MappingError: a key is missing or left over, or a shape does not fit; the message names key and shapes.
        ReadingError: a weight is of no plain floating-point type.
    """
    used: set[str] = set()
    for link in table:
        for key in link.keys:
            if key not in tensors.shapes:
                raise MappingError(f"{key}: is missing; {link.fblt} {list(link.shape)} is to be filled from it")
            _fits(key, tensors.shapes[key], link.part_shape, link.fblt)
            check_float(key, tensors.dtypes[key], link.fblt)
            used.add(key)
    left = set(shapes) - {link.fblt for link in table}
    if left:
        name = sorted(left)[0]
        raise MappingError(f"{name}: {list(shapes[name])} is filled by no tensor of the source")
    entries = [
        Entry(link.fblt, link.shape, dtype or tensors.dtypes[link.keys[0]], _join(tensors, link)) for link in table
    ]
    return Plan(entries, _sort_out(tensors, used, IGNORED[scheme] | (ignored or {})))


def _join(tensors: TensorReader, link: Link):
    def parts() -> Iterator[torch.Tensor]:
        for key in link.keys:
            yield tensors.read(key)
        if link.has_mask:
            yield torch.zeros(1, *link.shape[1:])

    return parts


def plan_export(tensors: TensorReader, table: list[Link]) -> Plan:
    """Tensors of a BLT from those of an FBLT; what the BLT has no place for is listed as ignored."""
    entries = []
    for link in table:
        if link.fblt not in tensors.shapes:
            raise MappingError(f"{link.fblt}: is missing; {', '.join(link.keys)} is to be filled from it")
        _fits(link.fblt, tensors.shapes[link.fblt], link.shape, "the model")
        check_float(link.fblt, tensors.dtypes[link.fblt], "a BLT")
        rows = link.part_shape[0]
        for i, key in enumerate(link.keys):
            entries.append(Entry(key, link.part_shape, tensors.dtypes[link.fblt], _cut(tensors, link.fblt, i, rows)))
    rules = {pattern: f"left out: {what}" for pattern, what in WITHOUT_COUNTERPART.items()}
    return Plan(entries, _sort_out(tensors, {link.fblt for link in table}, rules))


def _cut(tensors: TensorReader, key: str, index: int, rows: int):
    def parts() -> Iterator[torch.Tensor]:
        yield tensors.read(key, index * rows, (index + 1) * rows)

    return parts
