# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Whether saved weights are those of a config: what is missing would be random, what is too much would be left out."""

import re
from typing import Any

from torch import nn

# A fresh draft head changes nothing until it is trained, so weights from before there was one go with it.
_MAY_BE_FRESH = "draft_head."
# A numbered part of a network, such as `model.encoder.layers.3`.
_NUMBERED = re.compile(r"(?:^|\.)(patcher|encoder|global_transformer|decoder)\.([a-z_]+)\.(\d+)\.")


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
