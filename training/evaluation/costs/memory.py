"""Memory of a device in training: weights, gradients, the optimizer's state, whole or in shards, and what a step adds.

What a step adds is of a dry run, whose process holds all weights. Here it is joined with what a device of several
holds. Only the case of one process can be checked on a CPU, and is.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ...running.optimizers import NOT_FOR_MUON
from .dry_run import Arrival

FLOAT = 4  # bytes of float32: of stored weights and of the optimizer's state
MOMENTS = {"adamw": 2, "muon": 1}  # numbers kept for each weight of a matrix; all others have AdamW's


@dataclass(frozen=True)
class Weights:
    """Numbers of weights by what becomes of them.

    Attributes:
        all, trained: of the model.
        moments: that the optimizer keeps.
        layer: trained ones of the largest layer, which FSDP gathers as one.
        largest: numbers of the largest trained weight.
        root: outside of layers, which FSDP gathers for a whole pass; frozen ones too.
        in_layers: names of weights in layers.
    """

    all: int
    trained: int
    moments: int
    layer: int
    largest: int
    root: int
    in_layers: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module, optimizer: str) -> "Weights":
        named = dict(model.named_parameters())
        matrices = {n for n, p in named.items() if p.dim() == 2 and not any(part in n for part in NOT_FOR_MUON)}
        layers = {n: m for n, m in model.named_modules() if type(m).__name__ in model._no_split_modules}
        in_layers = {f"{n}.{part}" for n, m in layers.items() for part, _ in m.named_parameters()}
        trained = {name: p.numel() for name, p in named.items() if p.requires_grad}
        return cls(
            all=sum(p.numel() for p in named.values()),
            trained=sum(trained.values()),
            moments=sum(count * MOMENTS[optimizer if name in matrices else "adamw"] for name, count in trained.items()),
            layer=max((_trained(m) for m in layers.values()), default=0),
            largest=max(trained.values()),
            root=sum(p.numel() for name, p in named.items() if name not in in_layers),
            in_layers=frozenset(in_layers),
        )


def _trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def whole_memory(weights: Weights, arrivals: Iterable[Arrival], processes: int, accumulates: bool) -> dict[str, int]:
    """Bytes of a device that holds all weights, at the step's fullest moment, by what they are.

    Args:
        processes: with several, DDP holds gradients a second time, to send them.
        accumulates: gradients of earlier batches are there from the start.
    """
    beside, gradients = _fullest(arrivals, weights.trained * FLOAT if accumulates else 0, not accumulates)
    return {
        "weights": weights.all * FLOAT,
        "optimizer": weights.moments * FLOAT,
        "gradients": gradients,
        "gradients to send": weights.trained * FLOAT if processes > 1 else 0,
        "activations": beside,
    }


def sharded_memory(
    weights: Weights, arrivals: Iterable[Arrival], shards: int, itemsize: int, accumulates: bool
) -> dict[str, int]:
    """The same for a device that holds one of so many shards (FSDP2).

    A layer's gradients are reduced to the device's share once they are all there, those of the root at the end. With
    gradients accumulated they are held whole until the last batch, as Accelerate does it.

    Args:
        itemsize: bytes of a gathered weight and of a gradient before it is reduced.
    """
    held = weights.trained * itemsize if accumulates else 0
    arriving = [
        Arrival(
            a.weight, round(a.size / itemsize * FLOAT / shards) if a.weight in weights.in_layers else a.size, a.beside
        )
        for a in arrivals
    ]
    beside, gradients = _fullest(arriving, held, not accumulates)
    return {
        "weights": weights.all * FLOAT // shards,
        "optimizer": weights.moments * FLOAT // shards,
        "gradients": gradients,
        # The root, a layer and the next one; a layer's gradients; and one buffer of the largest of these to send.
        "gathered and sent": (weights.root + 3 * weights.layer + max(weights.root, weights.layer)) * itemsize,
        "activations": beside,
    }


def _fullest(arrivals: Iterable[Arrival], held: int, adds: bool) -> tuple[int, int]:
    """Bytes beside gradients, and of gradients, at the moment when both together are most.

    Args:
        held: gradients that are there from the start.
        adds: those that arrive take room of their own; otherwise they are added to these.
    """
    found, gradients = (0, held), held
    for arrival in arrivals:
        found = max(found, (arrival.beside, gradients), key=sum)
        gradients += arrival.size if adds else 0
    return found


def optimizer_step(weights: Weights, shards: int, at_once: bool = True) -> dict[str, int]:
    """Bytes while weights are updated, when all gradients are there.

    Args:
        at_once: torch computes the denominators of all updates at once, as AdamW does on GPUs. On CPUs it makes two
            numbers for each of one weight.
    """
    return {
        "weights": weights.all * FLOAT // shards,
        "optimizer": weights.moments * FLOAT // shards,
        "gradients": weights.trained * FLOAT // shards,
        "updates": (weights.trained if at_once else 2 * weights.largest) * FLOAT // shards,
    }
