# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""From a checkpoint's keys to tensors to write, after checking that everything has its place and fits."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from .keys import IGNORED, WITHOUT_COUNTERPART, Link, Shape
from .sources import TensorSource
from .writing import Entry


class MappingError(ValueError):
    """A key or a shape that does not fit."""


@dataclass
class Plan:
    """What a conversion will write.

    Attributes:
        entries: the tensors, in order.
        ignored: source keys left out, with the reason.
    """

    entries: list[Entry]
    ignored: dict[str, str] = field(default_factory=dict)


def _fits(key: str, found: Shape, wanted: Shape, purpose: str) -> None:
    if tuple(found) != tuple(wanted):
        raise MappingError(f"{key}: has shape {list(found)}, but {purpose} needs {list(wanted)}")


def _sort_out(source: TensorSource, used: set[str], rules: dict[str, str]) -> dict[str, str]:
    """The keys that no tensor needs, with the reason that each may be left out."""
    ignored = {}
    for key in source.shapes:
        if key in used:
            continue
        reason = next((why for pattern, why in rules.items() if re.fullmatch(pattern, key)), None)
        if reason is None:
            raise MappingError(f"{key}: has shape {list(source.shapes[key])}, but no tensor of the model takes it")
        ignored[key] = reason
    return ignored


def plan_import(
    source: TensorSource,
    table: list[Link],
    shapes: dict[str, Shape],
    scheme: str,
    dtype: torch.dtype | None,
    ignored: dict[str, str] | None = None,
) -> Plan:
    """Tensors of an FBLT from those of a BLT.

    Args:
        source: the BLT's tensors.
        table: see [`keys.links`].
        shapes: of every tensor of the FBLT.
        dtype: to write in; each tensor's own when None.
        ignored: patterns of keys to leave out, beside the scheme's, with reasons.

    Raises:
        MappingError: a key is missing or left over, or a shape does not fit; the message names key and shapes.
    """
    used: set[str] = set()
    for link in table:
        for key in link.keys:
            if key not in source.shapes:
                raise MappingError(f"{key}: is missing; {link.fblt} {list(link.shape)} is to be filled from it")
            _fits(key, source.shapes[key], link.part_shape, link.fblt)
            used.add(key)
    left = set(shapes) - {link.fblt for link in table}
    if left:
        name = sorted(left)[0]
        raise MappingError(f"{name}: {list(shapes[name])} is filled by no tensor of the source")
    entries = [
        Entry(link.fblt, link.shape, dtype or source.dtypes[link.keys[0]], _join(source, link)) for link in table
    ]
    return Plan(entries, _sort_out(source, used, IGNORED[scheme] | (ignored or {})))


def _join(source: TensorSource, link: Link):
    def parts() -> Iterator[torch.Tensor]:
        for key in link.keys:
            yield source.read(key)
        if link.mask_row:
            yield torch.zeros(1, *link.shape[1:])

    return parts


def plan_export(source: TensorSource, table: list[Link]) -> Plan:
    """Tensors of a BLT from those of an FBLT; what the BLT has no place for is listed as ignored."""
    entries = []
    for link in table:
        if link.fblt not in source.shapes:
            raise MappingError(f"{link.fblt}: is missing; {', '.join(link.keys)} is to be filled from it")
        _fits(link.fblt, source.shapes[link.fblt], link.shape, "the model")
        rows = link.part_shape[0]
        for i, key in enumerate(link.keys):
            entries.append(Entry(key, link.part_shape, source.dtypes[link.fblt], _cut(source, link.fblt, i, rows)))
    rules = {re.escape(key): f"left behind: {what}" for key, what in WITHOUT_COUNTERPART.items()}
    return Plan(entries, _sort_out(source, {link.fblt for link in table}, rules))


def _cut(source: TensorSource, key: str, index: int, rows: int):
    def parts() -> Iterator[torch.Tensor]:
        yield source.read(key, index * rows, (index + 1) * rows)

    return parts
