# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""The matrices of a layer as decoding multiplies them: maps that read the same states are one product.

`join_maps` moves weights so that those of q, k and v, and those of gate and up, lie side by side in memory: each
becomes a part of a shared matrix. Names, shapes and values stay as they are, and so do state dicts; no weight is stored
twice; whatever writes to a weight in place writes to the matrix. Nothing has to be told when a weight is replaced or
moved, or when a map is wrapped, quantised or given a hook: the matrices are used only where they are found to be what
the maps' own weights are, and otherwise each map is called by itself.
"""

import torch
from torch import nn

# By module of a layer, the maps that are multiplied as one.
GROUPS = (
    ("attention", ("q_proj", "k_proj", "v_proj")),
    ("attention", ("o_proj",)),
    ("feed_forward", ("gate_proj", "up_proj")),
    ("feed_forward", ("down_proj",)),
)


def is_unwatched(module: nn.Module) -> bool:
    """Whether calling a module is calling its class's `forward`: no hook is in the way."""
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def is_plain(layer: nn.Module) -> bool:
    """Whether calling `layer` is a product with its weight and no more: no adapter, quantiser or hook is in the way."""
    return (
        type(layer) is nn.Linear
        and layer._parameters["bias"] is None
        and type(layer._parameters["weight"]) is nn.Parameter
        and is_unwatched(layer)
    )


def without_gradient(x: torch.Tensor) -> bool:
    """Whether states may go through fused steps: in eager decoding and evaluation, in the weights' own dtype."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type))


class LayerMatrices:
    """The four matrices that a layer multiplies by. A copied or pickled layer starts without them."""

    def __init__(self):
        # The matrices, each `[width, rows]`; and every map's module, name, weight, and where this began in memory.
        self.made: tuple[tuple[torch.Tensor, ...], list[tuple]] | None = None

    def __reduce__(self):
        return LayerMatrices, ()

    def join(self, layer: nn.Module) -> None:
        """Makes the matrices, if all maps are plain and those of a group are alike."""
        if self.of(layer) is not None:
            return
        groups = [[(getattr(layer, part), name) for name in names] for part, names in GROUPS]
        if not all(is_plain(getattr(module, name)) for group in groups for module, name in group):
            return
        weights = [[getattr(module, name).weight for module, name in group] for group in groups]
        for group in weights:
            kinds = {(w.dtype, w.device, w.layout, w.shape[1]) for w in group}
            if len(kinds) > 1 or any(w.is_meta or w.is_inference() or w.grad is not None for w in group):
                return
        with torch.inference_mode(False), torch.no_grad():
            matrices = tuple(_side_by_side(group).t() for group in weights)
        places = [
            (module, name, weight, weight.data_ptr())
            for group, group_weights in zip(groups, weights, strict=True)
            for (module, name), weight in zip(group, group_weights, strict=True)
        ]
        self.made = matrices, places

    def of(self, layer: nn.Module) -> tuple[torch.Tensor, ...] | None:
        """The matrices of `GROUPS`, each `[width, rows]`, if the maps' weights are still their parts."""
        if self.made is None:
            return None
        matrices, places = self.made
        if not (is_unwatched(layer.attention) and is_unwatched(layer.feed_forward)):
            return None
        for module, name, weight, pointer in places:
            own = module._modules[name]
            if not is_plain(own) or own._parameters["weight"] is not weight or weight.data_ptr() != pointer:
                self.made = None
                return None
        return matrices


def _side_by_side(weights: list[nn.Parameter]) -> torch.Tensor:
    """One matrix of which the weights are parts from now on."""
    if len(weights) == 1:
        return weights[0].detach()
    matrix = torch.cat(weights)
    for weight, part in zip(weights, matrix.split([len(w) for w in weights]), strict=True):
        weight.data = part
    return matrix


def join_maps(model: nn.Module) -> None:
    """Makes the matrices of all layers of a model.

    Not where processes share the work: what shards or gathers parameters must find them where it put them.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return
    for module in model.modules():
        matrices = module.__dict__.get("matrices")
        if isinstance(matrices, LayerMatrices):
            matrices.join(module)
