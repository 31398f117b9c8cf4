# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Whether saved weights are those of a config: what is missing would be random, what is too much would be left out."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

# A fresh draft head changes nothing until it is trained, so weights from before there was one go with it.
_MAY_BE_FRESH = "draft_head."
# A numbered part of a network, such as `model.encoder.layers.3`.
_NUMBERED = re.compile(r"(?:^|\.)(patcher|encoder|global_transformer|decoder)\.([a-z_]+)\.(\d+)\.")


# Elements: what weights lack is filled in before it is refused, and a config may ask for networks of any size.
MOST_FILLED_IN = 2 * 10**8


def check_fresh(model: nn.Module, missing: Iterable[str]) -> None:
    """Refuses weights that lack very much before memory is taken for it; see [`check_loaded`]."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return  # a process may leave reading to another one
    wanted = dict(model.named_parameters())
    lacking = {name for name in missing if name in wanted}
    if sum(wanted[name].numel() for name in lacking) > MOST_FILLED_IN:
        check_loaded(model, model.name_or_path, lacking, set())


def check_loaded(model: nn.Module, source: Any, missing: set[str], unexpected: set[str]) -> None:
    """Refuses weights that are not those of the model's config.

    Args:
        model: as loaded.
        source: where from.
        missing: names of parameters that the model has and the weights have not.
        unexpected: the other way round. A head, or a whole network, may be left out; layers of one may not.

    Raises:
        ValueError: names such parameters and the remedy.
    """
    missing = {name for name in missing if not name.startswith(_MAY_BE_FRESH)}
    if missing:
        raise ValueError(
            f"`pretrained_model_name_or_path` {str(source)!r} lacks {len(missing)} of the weights that its config asks "
            f"for, such as {min(missing)!r}: they would be random. Give the config that the weights were saved with, "
            "or fetch the missing files; to train from fresh weights, make the model from its config."
        )
    extra = {name for name in unexpected if _is_extra(model, name)}
    if extra:
        raise ValueError(
            f"`pretrained_model_name_or_path` {str(source)!r} has {len(extra)} weights more than its config asks for, "
            f"such as {min(extra)!r}: they would be left out. Give the config that the weights were saved with."
        )


def _is_extra(model: nn.Module, name: str) -> bool:
    """Whether a weight is of a layer that a network which the model has has not."""
    found = _NUMBERED.search(name)
    if found is None:
        return False
    network = getattr(getattr(model, "model", model), found[1], None)
    return network is not None and hasattr(network, found[2])
