# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The one place that knows which release of transformers is running.

Release 5.24 renamed `past_key_values` to `cache`, in outputs and in arguments. FBLT takes and gives the KV cache by
both names on every release. Once 5.24 is the oldest release that FBLT supports, `BothCacheNames` and `given_cache` can
go: transformers itself then reads the old name.
"""

import os
from typing import Any

import torch
import transformers
from packaging.version import Version
from transformers.modeling_outputs import ModelOutput
from transformers.utils import logging

logger = logging.get_logger(__name__)

OLDEST_TESTED, NEWEST_TESTED = "5.23", "5.24"
OLD_NAME, NEW_NAME = "past_key_values", "cache"
CACHE_RENAMED = Version(transformers.__version__).release >= (5, 24)
# What this release of transformers calls the KV cache, and the other name.
CACHE_NAME, OTHER_NAME = (NEW_NAME, OLD_NAME) if CACHE_RENAMED else (OLD_NAME, NEW_NAME)


def is_exporting() -> bool:
    """Whether `torch.export` traces this call, so that no value can be looked at; torch 2.6 does not tell."""
    return getattr(torch.compiler, "is_exporting", bool)()


def warn_if_untested(version: str) -> None:
    """Warns, once in a process, where `version` of transformers is not among those that FBLT is tested on."""
    minor = Version(version).release[:2]
    if not Version(OLDEST_TESTED).release <= minor <= Version(NEWEST_TESTED).release:
        logger.warning_once(
            f"FBLT is tested on transformers {OLDEST_TESTED} to {NEWEST_TESTED}, and this is transformers {version}: "
            "should anything fail, install a tested release."
        )


def is_distributed() -> bool:
    """Whether torch knows of a group of processes that this one belongs to."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def warn_if_not_sharded(model: torch.nn.Module) -> None:
    """Warns, once in a process, where Accelerate was told to shard and this model's weights are whole.

    Processes on CPUs train by DDP then, and nobody else says so.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true" or not torch.distributed.is_available():
        return
    from torch.distributed.fsdp import FSDPModule  # where torch has no distributed part, it cannot be imported

    several = is_distributed() and torch.distributed.get_world_size() > 1
    if several and not isinstance(model, FSDPModule):
        logger.warning_once(
            "FSDP is asked for, but the model is not sharded: Accelerate shards on accelerators only, and trains CPU "
            "processes by DDP, with all weights in each. `fblt train` shards on CPUs, too."
        )


class BothCacheNames(ModelOutput):
    """An output whose field `CACHE_NAME` has the other name too: as an attribute, as a key, for `in` and `get`."""

    def __getitem__(self, key):
        return super().__getitem__(CACHE_NAME if key == OTHER_NAME else key)

    def __contains__(self, key) -> bool:
        return super().__contains__(CACHE_NAME if key == OTHER_NAME else key)

    def get(self, key, default=None):
        return super().get(CACHE_NAME if key == OTHER_NAME else key, default)


setattr(BothCacheNames, OTHER_NAME, property(lambda output: getattr(output, CACHE_NAME)))


def given_cache(arguments: dict[str, Any]) -> Any:
    """Takes the KV cache out of `arguments`, by whichever name it was given; None where there is none.

    Raises:
        ValueError: it is given by both names, and they are not the same.
    """
    old, new = arguments.pop(OLD_NAME, None), arguments.pop(NEW_NAME, None)
    if old is not None and new is not None and old is not new:
        raise ValueError(f"`{OLD_NAME}` and `{NEW_NAME}` are two names of one argument: give only one of them.")
    return new if old is None else old
