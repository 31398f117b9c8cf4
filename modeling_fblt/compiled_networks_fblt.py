# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Networks that decoding calls compiled, where `generate` is given a `compile_config`.

A small model spends a step on launching operators, not on its weights; compiled, a network's call is one graph. It is
compiled once for one new position and once for more, not again as the text grows: local networks are offered a window
of fixed width, the global transformer all columns that its buffers have, and masks hide what is not to be seen.

Prompts, rows whose bytes stand in different columns, and networks that hooks watch are called as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .draft_head_fblt import FBLTDraftHead
from .joined_maps_fblt import is_unwatched
from .networks_fblt import FBLTDecoder, FBLTEncoder, FBLTGlobal, FBLTPatcher

if TYPE_CHECKING:
    from .cache_fblt import FBLTCache


@dataclass(frozen=True)
class CompiledNetworks:
    """Compiled calls.

    Attributes:
        forward: by class of a network, its `forward`; the network comes first.
        head_step: [`FBLTDraftHead.step`]; the head comes first.
        chosen: what they were compiled with.
    """

    forward: dict[type[nn.Module], Callable]
    head_step: Callable
    chosen: tuple[tuple[str, str], ...]


# By what they were compiled with: a second call of `generate`, and a second model, find them here.
_COMPILED: dict[tuple, CompiledNetworks] = {}


def compiled_networks(generation_config) -> CompiledNetworks | None:
    """Networks compiled as a call's `compile_config` says; None without one, or with `disable_compile`."""
    config = generation_config.compile_config
    if config is None or generation_config.disable_compile:
        return None
    arguments = config.to_dict()
    if arguments["dynamic"] is None:
        arguments["dynamic"] = True  # every round has other lengths
    chosen = tuple((name, repr(arguments[name])) for name in sorted(arguments))
    if chosen not in _COMPILED:
        networks = (FBLTPatcher, FBLTEncoder, FBLTGlobal, FBLTDecoder)
        forward = {network: torch.compile(network.forward, **arguments) for network in networks}
        _COMPILED[chosen] = CompiledNetworks(forward, torch.compile(FBLTDraftHead.step, **arguments), chosen)
    return _COMPILED[chosen]


def network_call(network: nn.Module, cache: "FBLTCache | None", new: int) -> Callable[..., Any]:
    """What to call over `new` positions per row: the network, or its compiled form, where the context that is given
    with them is one of fixed width.
    """
    if cache is None or not cache.compiles(new) or not is_unwatched(network):
        return network
    return partial(_call, cache.networks.forward[type(network)], network)


def _call(forward: Callable, network: nn.Module, *arguments) -> Any:
    # Copies have one layout, in dimensions of size 1 too, and are no views: a graph is compiled for one.
    tidy = (x.clone(memory_format=torch.contiguous_format) if isinstance(x, torch.Tensor) else x for x in arguments)
    return forward(network, *tidy)
