"""What one process saved is what two go on from, each with its shares of it, and the other way round."""

import multiprocessing
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from fblt.training.running.checkpoints import DESCRIPTION, SHARDED_MODEL, SHARDED_OPTIMIZER
from fblt.training.running.optimizers import build_optimizer
from fblt.training.running.sharded import (
    load_sharded_model,
    load_sharded_optimizer,
    load_whole_model,
    load_whole_optimizer,
    separate_parts,
)
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

PROCESSES = 2


def model() -> nn.Module:
    """A table, which Muon leaves to AdamW, matrices and vectors, some of which two processes cannot halve."""
    torch.manual_seed(0)
    layers = {"embed": nn.Linear(6, 5), "middle": nn.Linear(5, 4, bias=False), "norm": nn.LayerNorm(4)}
    return nn.Sequential(OrderedDict(layers))


def step(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    network(torch.linspace(-1, 1, 18).view(3, 6)).square().sum().backward()
    optimizer.step()


def whole(value):
    """Copies of tensors, those in shares put together, in whatever holds them."""
    if isinstance(value, dict):
        return {name: whole(part) for name, part in value.items()}
    if isinstance(value, list):
        return [whole(part) for part in value]
    if isinstance(value, DTensor):
        return value.full_tensor()
    return value.clone() if isinstance(value, torch.Tensor) else value


def load_in_shares(checkpoint: Path, process: int, settings: dict) -> None:
    """One of the processes: loads from a whole checkpoint, saves what it has, in shares too, makes a step, and loads
    its shares."""
    dist.init_process_group("gloo", init_method=f"file://{checkpoint}/meeting", rank=process, world_size=PROCESSES)
    network = zeros()
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for part in [*network, network]:
        fully_shard(part, mesh=mesh)
    optimizer = build_optimizer(network, **settings)
    load_whole_model(network, checkpoint)
    load_whole_optimizer(optimizer, checkpoint)
    assert all(isinstance(value, DTensor) for value in network.state_dict().values())
    loaded = whole({"model": network.state_dict(), "optimizer": optimizer.state_dict()})
    with separate_parts(optimizer) as parts:  # as Accelerate does
        dcp.save({"model": get_model_state_dict(network)}, checkpoint_id=checkpoint / SHARDED_MODEL)
        dcp.save({"optimizer": get_optimizer_state_dict(network, parts)}, checkpoint_id=checkpoint / SHARDED_OPTIMIZER)
    step(network, optimizer)
    stepped = whole(network.state_dict())
    load_sharded_model(network, checkpoint)
    load_sharded_optimizer(network, optimizer, checkpoint)
    again = whole({"model": network.state_dict(), "optimizer": optimizer.state_dict()})
    if process == 0:
        torch.save({"loaded": loaded, "stepped": stepped, "again": again}, checkpoint / "found.pt")
    dist.destroy_process_group()


def zeros() -> nn.Module:
    """A model of the same shape, to load into."""
    network = model()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    return network


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_one_and_two_processes_load_bit_for_bit_what_the_other_saved_and_step_alike(tmp_path, name):
    settings = {"name": name, "learning_rate": 1e-2} | ({"muon_float32": True} if name == "muon" else {})
    network = model()
    optimizer = build_optimizer(network, **settings)
    for _ in range(2):
        step(network, optimizer)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=load_in_shares, args=(tmp_path, process, settings)) for process in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    found = torch.load(tmp_path / "found.pt", weights_only=True)
    expected = {"model": network.state_dict(), "optimizer": optimizer.state_dict()}
    torch.testing.assert_close(found["loaded"], expected, rtol=0, atol=0)
    torch.testing.assert_close(found["again"], expected, rtol=0, atol=0)
    one = zeros()
    one_optimizer = build_optimizer(one, **settings)
    load_sharded_model(one, tmp_path)
    load_sharded_optimizer(one, one_optimizer, tmp_path)
    back = {"model": one.state_dict(), "optimizer": one_optimizer.state_dict()}
    torch.testing.assert_close(back, expected, rtol=0, atol=0)
    step(network, optimizer)
    torch.testing.assert_close(found["stepped"], network.state_dict())


class Dangerous:
    """Writes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_a_checkpoint_that_would_execute_something_is_refused(tmp_path):
    network, mark = model(), tmp_path / "executed"
    optimizer = build_optimizer(network)
    step(network, optimizer)
    dcp.save({"model": network.state_dict()}, checkpoint_id=tmp_path / SHARDED_MODEL, no_dist=True)
    load_sharded_model(network, tmp_path)
    (tmp_path / SHARDED_MODEL / DESCRIPTION).write_bytes(pickle.dumps(Dangerous(mark)))
    with pytest.raises(ValueError, match="metadata: is damaged, or no description"):
        load_sharded_model(network, tmp_path)
    state = get_optimizer_state_dict(network, optimizer)
    state["param_groups"][0]["lr"] = Dangerous(mark)
    dcp.save({"optimizer": state}, checkpoint_id=tmp_path / SHARDED_OPTIMIZER, no_dist=True)
    with pytest.raises(CheckpointException, match="Weights only load failed"):
        load_sharded_optimizer(network, optimizer, tmp_path)
    assert not mark.exists()


def test_weights_of_another_format_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no \\*.safetensors"):
        load_whole_model(model(), tmp_path)
