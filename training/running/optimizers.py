"""Muon for the matrices of the layers, AdamW for everything else, as one optimizer."""

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from .float_muon import FloatMuon, is_bfloat16_slow

# Tables and heads are matrices too, but their rows are not features of one space: AdamW suits them better.
NOT_FOR_MUON = ("embed", "table", "lm_head", "draft_head")


class MuonWithAdamW(Optimizer):
    """Steps a Muon and an AdamW together; learning-rate schedules see the groups of both."""

    def __init__(self, muon: Muon, adamw: AdamW):
        self.parts = {"muon": muon, "adamw": adamw}
        super().__init__([p for part in self.parts.values() for g in part.param_groups for p in g["params"]], {})
        self.share_groups()

    def share_groups(self) -> None:
        """Uses the parts' own dictionaries of groups, so that the parts read what a scheduler writes here."""
        self.param_groups = [group for part in self.parts.values() for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts.values():
            part.step()
        return loss

    def state_dict(self) -> dict:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state_dict: dict) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state_dict[name])
        self.share_groups()


def build_optimizer(
    model: nn.Module,
    name: str = "adamw",
    learning_rate: float = 4e-4,
    muon_learning_rate: float = 0.02,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
    muon_float32: bool = False,
) -> Optimizer:
    """The optimizer of a recipe.

    Args:
        name: `"adamw"` (the paper's) or `"muon"` (Muon for matrices of layers, AdamW for the rest).
        learning_rate: AdamW's.
        muon_learning_rate: Muon's.
        weight_decay: decoupled, for matrices only.
        muon_float32: whether Muon's updates are made in float32 on every device, as they are where a CPU has no
            bfloat16: slower on GPUs, but several processes then update as one does, up to the order of sums.

    Raises:
        ValueError: an unknown `name`, or `muon_float32` without Muon.
    """
    if name not in ("adamw", "muon"):
        raise ValueError(f"`optimizer.name` is {name!r}: choose 'adamw' or 'muon'.")
    if muon_float32 and name != "muon":
        raise ValueError(
            f"`optimizer.muon_float32` goes with Muon alone, and `optimizer.name` is {name!r}: leave it out."
        )
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if p.dim() == 2 and not any(part in n for part in NOT_FOR_MUON)]
    tables = [p for n, p in named if p.dim() == 2 and any(part in n for part in NOT_FOR_MUON)]
    vectors = [p for _, p in named if p.dim() != 2]
    decayed = tables if name == "muon" else matrices + tables
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    adamw = AdamW(groups, lr=learning_rate, betas=tuple(betas), eps=1e-8)
    if name == "adamw":
        return adamw
    kind = FloatMuon if muon_float32 or is_bfloat16_slow(matrices) else Muon
    return MuonWithAdamW(kind(matrices, lr=muon_learning_rate, weight_decay=weight_decay), adamw)
