# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Fields as tables: what a setting may be, declared once and checked by one function.

A rule says what holds for a value and what to give instead. Nothing is converted: a string is no number, "False" is not
False, and NaN lies between no bounds.
"""

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from reprlib import repr as shortened
from typing import Any

import torch


@dataclass(frozen=True)
class Rule:
    """What holds for a field.

    Attributes:
        holds: asked of a value.
        remedy: what to give.
    """

    holds: Callable[[Any], bool]
    remedy: str

    def refuse(self, name: str, value: Any) -> None:
        """Raises a ValueError that names field, value and remedy, unless the rule holds."""
        if not self.holds(value):
            raise ValueError(f"`{name}` is {shortened(value)}: {self.remedy}.")


def is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is finite, and no integer of more than the 64 bits that torch computes with."""
    if is_whole(value):
        return -(1 << 63) <= value < 1 << 63
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _either(holds: Callable[[Any], bool], others: tuple, remedy: str) -> Rule:
    """A rule that also takes some values beside; None among them is told apart from anything that equals it."""

    def holds_or_is(value: Any) -> bool:
        return any(value is other or (isinstance(other, str) and value == other) for other in others) or holds(value)

    ways = ["None" if other is None else repr(other) for other in others]
    return Rule(holds_or_is, ", or ".join([remedy, *ways]))


def whole(least: int, most: int, *others: Any) -> Rule:
    """An integer from `least` to `most`, or one of `others`."""
    return _either(
        lambda value: is_whole(value) and least <= value <= most, others, f"give an integer from {least} to {most}"
    )


def number(least: float, most: float, *others: Any) -> Rule:
    """A finite number from `least` to `most`, or one of `others`."""
    bounds = f" of at least {least:g}" if math.isinf(most) else f" from {least:g} to {most:g}"
    bounds = "" if math.isinf(least) else bounds
    return _either(lambda value: is_number(value) and least <= value <= most, others, f"give a finite number{bounds}")


def between(above: float, below: float, *others: Any) -> Rule:
    """A finite number above `above` and below `below`, or one of `others`."""
    bounds = f" above {above:g}" if math.isinf(below) else f" between {above:g} and {below:g}, both left out"
    return _either(lambda value: is_number(value) and above < value < below, others, f"give a finite number{bounds}")


def choice(*values: Any) -> Rule:
    """One of some values, of the same type: 1 is not True."""
    return Rule(
        lambda value: any(type(value) is type(one) and value == one for one in values),
        f"choose one of {values}" if len(values) > 1 else f"give {values[0]!r}, there is no other",
    )


def flag(*others: Any) -> Rule:
    """True or False, or one of `others`."""
    return _either(lambda value: isinstance(value, bool), others, "give True or False")


def whole_list(least: int, most: int, longest: int, *others: Any, shortest: int = 0) -> Rule:
    """A list of `shortest` to `longest` integers from `least` to `most`, or one of `others`."""

    def holds(value: Any) -> bool:
        fine = isinstance(value, (list, tuple)) and shortest <= len(value) <= longest
        return fine and all(is_whole(item) and least <= item <= most for item in value)

    length = f"at most {longest}" if shortest == 0 else f"{shortest} to {longest}"
    return _either(holds, others, f"give a list of {length} integers from {least} to {most}")


def dtype() -> Rule:
    """A torch dtype, the name of one, or None."""

    def holds(value: Any) -> bool:
        named = getattr(torch, value, None) if isinstance(value, str) else value
        return value is None or isinstance(named, torch.dtype)

    return Rule(holds, "give a torch dtype, its name, or None")


def any_of(*rules: Rule) -> Rule:
    """What at least one of some rules takes."""
    return Rule(lambda value: any(rule.holds(value) for rule in rules), ", or ".join(rule.remedy for rule in rules))


def check_fields(values: Mapping[str, Any], table: Mapping[str, Rule], prefix: str = "") -> None:
    """Raises a ValueError for the first of `values` that breaks its rule; values without a rule are let through."""
    for name, rule in table.items():
        if name in values:
            rule.refuse(prefix + name, values[name])
