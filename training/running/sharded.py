"""Sharded (FSDP2) runs: rehearsed on CPUs, their optimizers, and checkpoints that go from sharded to whole and back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from accelerate import PartialState
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from transformers.trainer import OPTIMIZER_NAME

from .checkpoints import DESCRIPTION, SHARDED_MODEL, SHARDED_OPTIMIZER
from .descriptions import CheckedPlanner, check_description
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
    """Loads a sharded checkpoint's weights into a model, sharded or whole, in any number of processes.

    Raises:
        ValueError: the checkpoint holds more than descriptions, see [`check_description`].
    """
    state = {"model": get_model_state_dict(model)}
    _read(state, Path(checkpoint) / SHARDED_MODEL, model)
    set_model_state_dict(model, state["model"])


def load_sharded_optimizer(model: nn.Module, optimizer: Optimizer, checkpoint: str | Path) -> None:
    """As [`load_sharded_model`], for the state of the model's optimizer."""
    with separate_parts(optimizer) as parts:
        state = {"optimizer": get_optimizer_state_dict(model, parts)}
        _read(state, Path(checkpoint) / SHARDED_OPTIMIZER, model)
        set_optimizer_state_dict(model, parts, state["optimizer"])


def _read(state: dict, folder: Path, model: nn.Module) -> None:
    """Reads into `state`, which all processes of a sharded model do together, those of a whole one each alone."""
    check_description(folder / DESCRIPTION)
    alone = not any(isinstance(weight, DTensor) for weight in model.parameters())
    dcp.load(state, checkpoint_id=folder, planner=CheckedPlanner(), no_dist=alone)


def load_whole_model(model: nn.Module, checkpoint: str | Path) -> None:
    """Loads an unsharded checkpoint's weights into a sharded model: every process reads the files and keeps its shares.

    Raises:
        ValueError: the weights are not in safetensors files.
    """
    files = sorted(Path(checkpoint).glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"{checkpoint}: holds no *.safetensors files, which sharded runs go on from: go on without FSDP once."
        )
    weights = {name: weight for file in files for name, weight in load_file(file).items()}
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=True))


def load_whole_optimizer(optimizer: Optimizer, checkpoint: str | Path) -> None:
    """Loads an unsharded checkpoint's optimizer state into the optimizer of a sharded model."""
    saved = torch.load(Path(checkpoint) / OPTIMIZER_NAME, map_location="cpu", weights_only=True, mmap=True)
    with separate_parts(optimizer) as parts:
        # Of Muon with AdamW, the checkpoint has both states under the parts' names, in their order.
        states = [saved] if len(parts) == 1 else list(saved.values())
        for part, state in zip(parts, states, strict=True):
            # Optimizers number parameters as their groups have them.
            parameters = [parameter for group in part.param_groups for parameter in group["params"]]
            shares = {
                number: {name: _share(value, parameters[number]) for name, value in values.items()}
                for number, values in state["state"].items()
            }
            part.load_state_dict({**state, "state": shares})


def _share(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """This process's share of a tensor laid out as a parameter is; others, such as a count of steps, as they are."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


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
