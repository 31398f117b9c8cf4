"""Other ways to run the same model: compiled networks, 8-bit weights. Either may fail, and then says why."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers.generation import CompileConfig

VARIANTS = ("compile", "int8")


@dataclass
class Variant:
    """A model made another way.

    Attributes:
        model: None where that failed.
        error: then, the error's type and text.
        seconds: that making it took, the first calls included.
        notes: what was found on the way.
    """

    model: torch.nn.Module | None
    error: str | None
    seconds: float
    notes: dict


def build_variant(name: str, model, first_calls: Callable[[torch.nn.Module], None]) -> Variant:
    """A variant of a copy of the model, after calls that set it up and show whether it runs.

    Raises:
        ValueError: torchao, which `int8` needs, is not installed.
    """
    if name == "int8":
        quantize = _quantizer()
    began, notes = time.perf_counter(), {}
    try:
        changed = copy.deepcopy(model)
        if name == "compile":
            torch._dynamo.reset()
            changed.generation_config.compile_config = CompileConfig(mode=None, fullgraph=True)
        else:
            quantize(changed)
            notes["weights_mb"] = {
                "before": sum(p.nbytes for p in model.parameters()) / 1e6,
                "after": sum(_held(p) for p in changed.parameters()) / 1e6,
            }
        first_calls(changed)
        if name == "compile":
            notes["graphs"] = dict(torch._dynamo.utils.counters["stats"])
            notes["graph_breaks"] = dict(torch._dynamo.utils.counters["graph_break"])
    except Exception as error:  # whatever a compiler or a kernel raises is what is to be reported
        text = f"{type(error).__name__}: {error}".strip()
        return Variant(None, text[:2000], time.perf_counter() - began, notes)
    return Variant(changed, None, time.perf_counter() - began, notes)


def _quantizer() -> Callable[[torch.nn.Module], None]:
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise ValueError(f"`--int8` needs torchao ({error}): `pip install --no-deps torchao`.") from None
    return lambda model: quantize_(model, Int8WeightOnlyConfig())


def _held(parameter: torch.Tensor) -> int:
    """Bytes of a parameter, those of its parts where it is quantised."""
    names = getattr(parameter, "__tensor_flatten__", None)
    if names is None:
        return parameter.nbytes
    return sum(getattr(parameter, name).nbytes for name in names()[0])
