"""What a run measures while it trains: sums that cost no wait for the device, and drafts at evaluation."""

import math
import time
from collections.abc import Mapping

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console
from rich.table import Table

from modeling_fblt.configuration_fblt import EOS_ID

from .drafts import draft_figures
from .samples import Anchor, EncodedDocument, draw_anchors

LOSSES = ("next_byte_loss", "diffusion_loss", "draft_head_loss")
COUNTS = ("bytes", "patches", "timed_bytes")
BYTES_BEFORE_ANCHOR = 64
UNPRINTED = ("_runtime", "_per_second", "epoch")


class StepSums:
    """Sums over the steps since the last log, kept on the device and read once per log.

    Losses come divided by the step's target bytes, so their sum over micro-batches and processes is the step's loss.
    No device needs float64 for them: losses are float32, counts are whole numbers.
    """

    def __init__(self, device: torch.device):
        self.losses = torch.zeros(len(LOSSES), dtype=torch.float32, device=device)
        self.counts = torch.zeros(len(COUNTS), dtype=torch.int64, device=device)
        self.has_blocks = self.has_head = False
        self.since = 0  # the step after which the sums began
        self.begin(0)

    def begin(self, step: int) -> None:
        """Starts anew after `step`."""
        self.losses.zero_()
        self.counts.zero_()
        self.since = step
        self.started, self.paused = time.perf_counter(), 0.0

    def add(self, inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor]) -> None:
        """Takes in a micro-batch."""
        ids, mask, starts = inputs["input_ids"], inputs.get("attention_mask"), inputs.get("patch_starts")
        mask = torch.ones_like(ids) if mask is None else mask
        count = mask.sum()
        patches = torch.zeros_like(count) if starts is None else (starts[:, :-1] & mask.bool()).sum()
        self.counts += torch.stack([count, patches, count])
        self.has_blocks = outputs.get("diffusion_loss") is not None
        self.has_head = outputs.get("draft_head_loss") is not None
        if self.has_blocks:
            found = [outputs.get(name) for name in LOSSES]
            zero = torch.zeros_like(outputs["next_byte_loss"])
            self.losses += torch.stack([(zero if loss is None else loss).detach().float() for loss in found])

    def state(self) -> dict:
        """What a checkpoint keeps, so that a resumed run logs what an uninterrupted one would."""
        sums = {"losses": self.losses.cpu(), "counts": self.counts.cpu()}
        return {**sums, "has_blocks": self.has_blocks, "has_head": self.has_head, "since": self.since}

    def restore(self, state: dict) -> None:
        """Goes on from what [`state`] returned. What an earlier version kept otherwise is left out of the next log."""
        if "counts" not in state:
            return
        kept = state["losses"].to(self.losses.device)
        self.losses[: len(kept)] = kept  # earlier versions had no draft head's
        self.counts.copy_(state["counts"])
        self.counts[COUNTS.index("timed_bytes")] = 0  # the clock started with this process
        self.has_blocks, self.since = state["has_blocks"], state["since"]
        self.has_head = state.get("has_head", False)

    def figures(self, losses: torch.Tensor, counts: torch.Tensor, step: int) -> dict[str, float]:
        """The logs' entries at `step`, from the sums of all processes."""
        total = dict(zip(COUNTS, counts.tolist(), strict=True))
        found = {}
        if self.has_blocks:
            means = (loss / (step - self.since) for loss in losses.tolist())
            found = dict(zip(LOSSES, means, strict=True))
            found["bits_per_byte"] = found["next_byte_loss"] / math.log(2)
            if not self.has_head:
                del found["draft_head_loss"]
        if total["patches"]:
            found["mean_patch_length"] = total["bytes"] / total["patches"]
        found["bytes_per_second"] = total["timed_bytes"] / (time.perf_counter() - self.started - self.paused)
        return found


def row_anchors(rows: Dataset, count: int, drafted: int, seed: int) -> list[Anchor]:
    """Up to `count` random anchors in evaluation rows to draft `drafted` bytes at, each within one document."""
    documents = []
    for ids in rows.with_format("numpy")["input_ids"]:
        ends = np.flatnonzero(ids == EOS_ID) + 1
        documents += [EncodedDocument("validation", part.astype(np.int64)) for part in np.split(ids, ends)]
    positions = sum(max(len(document.ids) - 1 - drafted - BYTES_BEFORE_ANCHOR, 0) for document in documents)
    if positions == 0:
        return []
    longest = max(len(document.ids) for document in documents)
    return draw_anchors(documents, min(count, positions), drafted, longest, seed, BYTES_BEFORE_ANCHOR)


def draft_metrics(model, anchors: list[Anchor], batch_size: int, seed: int) -> dict[str, float]:
    """Leading correct bytes of one-step drafts and of the decoder's own, and accuracy of the former by offset."""
    training = model.training
    figures = draft_figures(model.eval(), anchors, batch_size, seed)
    model.train(training)
    found = {
        "eval_draft_leading_correct": figures["one_step"]["leading_correct"]["mean"],
        "eval_blt_s_leading_correct": figures["blt-s"]["leading_correct"]["mean"],
    }
    if "head" in figures:
        found["eval_draft_head_leading_correct"] = figures["head"]["leading_correct"]["mean"]
    by_offset = figures["one_step"]["accuracy_by_offset"]["all"]
    return found | {f"eval_masked_accuracy_{offset}": share for offset, share in enumerate(by_offset, 1)}


def print_metrics(step: int, metrics: Mapping[str, float], console: Console) -> None:
    """One evaluation as a table."""
    table = Table("", f"step {step}", title="Evaluation", title_justify="left")
    for name, value in metrics.items():
        if name.endswith(UNPRINTED):
            continue
        table.add_row(name.removeprefix("eval_").replace("_", " "), f"{value:.4g}")
    console.print(table)
