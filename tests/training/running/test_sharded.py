"""What one process saved is what two processes go on from, each with its shares of it."""

import multiprocessing
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from fblt.training.running.optimizers import build_optimizer
from fblt.training.running.sharded import load_whole_model, load_whole_optimizer
from safetensors.torch import save_file
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

PROCESSES = 2


def model() -> nn.Module:
    """Matrices and vectors, one of which two processes cannot halve."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4, bias=False), nn.LayerNorm(4))


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
    """One of the processes: loads, puts together what all have, and saves it."""
    dist.init_process_group("gloo", init_method=f"file://{checkpoint}/meeting", rank=process, world_size=PROCESSES)
    network = model()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for part in [*network, network]:
        fully_shard(part, mesh=mesh)
    optimizer = build_optimizer(network, **settings)
    load_whole_model(network, checkpoint)
    load_whole_optimizer(optimizer, checkpoint)
    assert all(isinstance(value, DTensor) for value in network.state_dict().values())
    loaded = whole({"model": network.state_dict(), "optimizer": optimizer.state_dict()})
    step(network, optimizer)
    stepped = whole(network.state_dict())
    if process == 0:
        torch.save({"loaded": loaded, "stepped": stepped}, checkpoint / "found.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_two_processes_load_bit_for_bit_what_one_saved_and_step_as_it_does(tmp_path, name):
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
    step(network, optimizer)
    torch.testing.assert_close(found["stepped"], network.state_dict())


def test_weights_of_another_format_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no \\*.safetensors"):
        load_whole_model(model(), tmp_path)
