"""Layers compiled part by part: norms and feed-forwards, which are plain functions of tensors of any length."""

import torch

from modeling_fblt import FBLTForCausalLM
from modeling_fblt.layers_fblt import FBLTFeedForward, FBLTRMSNorm


def check_backend(backend: str) -> None:
    """Raises a `ValueError` if `torch.compile` knows no such backend."""
    known = torch.compiler.list_backends(exclude_tags=())
    if backend not in known:
        raise ValueError(f"`compile_layers` is {backend!r}: give one of {known}.")


def compile_layers(model: FBLTForCausalLM, backend: str) -> None:
    """Compiles norms and feed-forwards of the trained networks, for all lengths at once, when they are first called.

    Attention stays as it is: its masks are made anew for every batch, and torch compiles it again and again. So does
    the frozen patcher, whose entropies decide patches by their last bits.
    """
    patcher = set() if model.model.patcher is None else set(model.model.patcher.modules())
    for module in model.modules():
        if isinstance(module, FBLTFeedForward | FBLTRMSNorm) and module not in patcher:
            module.compile(backend=backend, dynamic=True)
