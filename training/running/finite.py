"""Training that stops where its numbers stop being numbers, before that is saved."""

import torch
from accelerate import Accelerator
from torch import nn

NEVER = 2**62  # a step that no run reaches


class FiniteWatch:
    """Remembers the first step whose loss was not finite, on the device: steps need not wait for it.

    Attributes:
        first: that step; [`NEVER`] as long as there is none.
    """

    def __init__(self, device: torch.device):
        self.first = torch.full((1,), NEVER, dtype=torch.int64, device=device)

    def add(self, step: int, loss: torch.Tensor) -> None:
        """Takes in the loss of a micro-batch of `step`."""
        self.first = torch.where(torch.isfinite(loss.detach()), self.first, self.first.clamp(max=step))

    def check_losses(self, accelerator: Accelerator) -> None:
        """Waits for the losses of all processes, which must all call this.

        Raises:
            ValueError: one was not finite; the message names the step.
        """
        step = int(accelerator.gather(self.first).min())
        if step != NEVER:
            raise _stopped(f"the loss of step {step} is not finite")

    def check_weights(self, accelerator: Accelerator, model: nn.Module, step: int) -> None:
        """As [`check_losses`], for the weights after `step`, which a step of finite loss can spoil too."""
        name = non_finite_weight(model)
        spoiled = torch.tensor([name is not None], device=self.first.device)
        if bool(accelerator.gather(spoiled).any()):
            raise _stopped(f"after step {step}, {name or 'a weight of another process'} is not finite")


def non_finite_weight(model: nn.Module) -> str | None:
    """The name of a weight, in this process's share of the model, that holds NaN or infinity; None if none does."""
    shares = [
        (name, getattr(weight, "to_local", lambda weight=weight: weight)()) for name, weight in model.named_parameters()
    ]
    finite = torch.stack([torch.isfinite(share.detach()).all() for _, share in shares]).tolist()
    return next((name for (name, _), fine in zip(shares, finite, strict=True) if not fine), None)


def _stopped(what: str) -> ValueError:
    return ValueError(
        f"Training stopped: {what}. Nothing was saved since, and the checkpoints before it stay: give a smaller "
        "`optimizer.learning_rate`, or a `trainer.max_grad_norm` that is not larger than 1."
    )
