"""Muon in float32, for CPUs that have no instructions for bfloat16: there torch's own takes twenty times as long."""

import math
from collections.abc import Sequence

import torch
from torch.optim import Muon


def is_bfloat16_slow(parameters: Sequence[torch.Tensor]) -> bool:
    """Whether the parameters lie on a CPU that multiplies bfloat16 matrices without instructions for it."""
    on_cpu = all(parameter.device.type == "cpu" for parameter in parameters)
    return on_cpu and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


class FloatMuon(Muon):
    """torch's Muon, with the same settings and state, that orthogonalises in float32."""

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: torch.Tensor, group: dict) -> None:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter.grad)
        average = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
        update = parameter.grad.lerp(average, group["momentum"]) if group["nesterov"] else average
        update = orthogonal(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = parameter.shape
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, rows / columns)))


def orthogonal(matrix: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> torch.Tensor:
    """The nearest matrix of singular values about 1, by the Newton-Schulz iteration that torch's Muon makes."""
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if tall else matrix
    found = found / found.norm().clamp(min=eps)
    for _ in range(steps):
        gram = found @ found.T
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.T if tall else found
