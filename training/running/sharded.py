"""Sharded (FSDP2) runs: rehearsed on CPUs, their optimizers, and their checkpoints read by unsharded runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed.checkpoint as dcp
from accelerate import PartialState
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from .checkpoints import SHARDED_MODEL, SHARDED_OPTIMIZER
from .optimizers import MuonWithAdamW


def allow_sharding_on_cpu() -> None:
    """Makes Accelerate shard CPU processes, too, which it does for GPUs only: to rehearse and to test FSDP2.

    The state it finds afterwards is its own, of processes joined through gloo, under the name that it asks for.
    """
    state = PartialState(cpu=True)
    if state.distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


@contextmanager
def root_gathered(model: nn.Module) -> Iterator[None]:
    """Keeps the weights outside of the sharded layers whole, for work that does not go through the model's `forward`.

    Layers gather theirs when they are called. All processes do the same work within.
    """
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def is_sharded(checkpoint: str | Path) -> bool:
    """Whether a checkpoint was written by a sharded run."""
    return (Path(checkpoint) / SHARDED_MODEL).is_dir()


def load_sharded_model(model: nn.Module, checkpoint: str | Path) -> None:
    """Loads a sharded checkpoint's weights into a model that is whole in this process."""
    state = {"model": get_model_state_dict(model)}
    dcp.load(state, checkpoint_id=Path(checkpoint) / SHARDED_MODEL, no_dist=True)
    set_model_state_dict(model, state["model"])


def load_sharded_optimizer(model: nn.Module, optimizer: Optimizer, checkpoint: str | Path) -> None:
    """Loads a sharded checkpoint's optimizer state into the optimizer of a whole model."""
    with separate_parts(optimizer) as parts:
        state = {"optimizer": get_optimizer_state_dict(model, parts)}
        dcp.load(state, checkpoint_id=Path(checkpoint) / SHARDED_OPTIMIZER, no_dist=True)
        set_optimizer_state_dict(model, parts, state["optimizer"])


@contextmanager
def separate_parts(optimizer: Optimizer) -> Iterator[tuple[Optimizer, ...]]:
    """The plain optimizers that one optimizer consists of: sharded checkpoints take these, one by one.

    They name an optimizer's states by parameters, which [`MuonWithAdamW`] as a whole cannot.
    """
    inner = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
    if not isinstance(inner, MuonWithAdamW):
        yield (inner,)
        return
    yield tuple(inner.parts.values())
    inner.share_groups()
