"""How long each network takes inside a running generation, measured where the engine calls it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fblt.training.evaluation.traffic import read_per_call
from torch import nn

PARTS = ("patcher", "encoder", "pooling", "global", "decoder", "head")


@dataclass
class NetworkTimes:
    """Per name in `PARTS`: seconds of each call, in order. Asynchronous devices are not waited for."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in PARTS})

    def total(self) -> float:
        return sum(sum(values) for values in self.seconds.values())


def _methods(model) -> dict[str, tuple[nn.Module, str]]:
    inner = model.model
    methods = {
        "patcher": (inner.patcher, "forward"),
        "encoder": (inner.encoder, "forward"),
        "pooling": (inner.encoder, "pool"),
        "global": (inner.global_transformer, "forward"),
        "decoder": (inner.decoder, "forward"),
        "head": (model, "byte_logits"),
    }
    return {name: pair for name, pair in methods.items() if pair[0] is not None}


@contextmanager
def wrapped_networks(model, wrap: Callable[[str, Callable], Callable]) -> Iterator[None]:
    """Calls `wrap(name, method)` in place of each network's method, name in `PARTS`, while the context is open."""
    methods = _methods(model)
    for name, (module, method) in methods.items():
        setattr(module, method, wrap(name, getattr(module, method)))
    try:
        yield
    finally:
        for module, method in methods.values():
            delattr(module, method)


@contextmanager
def network_times(model, clock: Callable[[], float]) -> Iterator[NetworkTimes]:
    """Times every call of a model's networks while the context is open."""
    times = NetworkTimes()

    def timed(name: str, method: Callable) -> Callable:
        def run(*args, **kwargs):
            began = clock()
            result = method(*args, **kwargs)
            times.seconds[name].append(clock() - began)
            return result

        return run

    with wrapped_networks(model, timed):
        yield times


def parameters_read(model) -> dict[str, int]:
    """Parameters that one call of each part reads; lookups read a few rows of their tables, which are left out."""
    encoder, networks = model.model.encoder, _methods(model)
    parts = {name: [module] for name, (module, _) in networks.items()}
    parts |= {"encoder": [encoder.layers], "head": [model.lm_head]}
    parts["pooling"] = [encoder.slot_projection, encoder.earlier_poolings, encoder.pooling]
    return {name: sum(read_per_call(module) for module in modules) for name, modules in parts.items()}
