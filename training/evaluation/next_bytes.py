"""Next-byte figures on held-out documents: bits per byte, accuracy, patch length."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from modeling_fblt.configuration_fblt import BYTE_OFFSET

from .measures import is_blank, share
from .samples import EncodedDocument, Row, cut_rows, right_padded

SUMS = ("nats", "bytes", "correct", "non_blank_bytes", "non_blank_correct", "positions", "patches")


@torch.inference_mode()
def next_byte_figures(model, documents: Sequence[EncodedDocument], row_length: int, batch_size: int) -> dict:
    """Teacher-forced figures, over all documents and per source.

    Each byte is a target once; `</s>` is none. Long documents are cut into rows, so the first bytes of a later row are
    predicted from little context: the figures err to the high side.

    Returns:
        `all` and `sources`: `bytes`, `bits_per_byte`, `accuracy`, `accuracy_non_blank`, `mean_patch_length` in bytes.
    """
    rows = sorted(cut_rows(documents, row_length), key=lambda row: -len(row.ids))
    sums: dict[str, dict[str, float]] = {}
    with tqdm(total=sum(len(row.ids) for row in rows), desc="next bytes", unit="B", unit_scale=True) as progress:
        for first in range(0, len(rows), batch_size):
            batch = rows[first : first + batch_size]
            for row, counted in zip(batch, _count(model, batch), strict=True):
                tally = sums.setdefault(row.source, dict.fromkeys(SUMS, 0.0))
                for name, value in counted.items():
                    tally[name] += value
            progress.update(sum(len(row.ids) for row in batch))
    total = {name: sum(tally[name] for tally in sums.values()) for name in SUMS}
    return {"all": _figures(total), "sources": {source: _figures(sums[source]) for source in sorted(sums)}}


def _count(model, rows: Sequence[Row]) -> list[dict[str, float]]:
    """The sums of each row of a batch."""
    ids, lengths = right_padded([row.ids for row in rows], model.device)
    targets, _ = right_padded([row.targets for row in rows], model.device)
    real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    starts = model.patch(ids, real.long()).patch_starts
    logits = model(ids, attention_mask=real.long(), patch_starts=starts, use_cache=False).logits
    nats = F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
    counted = real & (targets >= BYTE_OFFSET)
    solid = counted & ~is_blank(targets)
    right = logits.argmax(-1) == targets
    columns = {
        "nats": nats * counted,
        "bytes": counted,
        "correct": right & counted,
        "non_blank_bytes": solid,
        "non_blank_correct": right & solid,
        "positions": real,
        "patches": starts[:, :-1] & real,
    }
    # Summed in double precision, which not every device has.
    per_row = {name: values.cpu().numpy().sum(1, dtype="float64").tolist() for name, values in columns.items()}
    return [{name: per_row[name][i] for name in SUMS} for i in range(len(rows))]


def _figures(sums: dict[str, float]) -> dict:
    return {
        "bytes": int(sums["bytes"]),
        "bits_per_byte": share(sums["nats"] / math.log(2), sums["bytes"]),
        "accuracy": share(sums["correct"], sums["bytes"]),
        "accuracy_non_blank": share(sums["non_blank_correct"], sums["non_blank_bytes"]),
        "mean_patch_length": share(sums["positions"], sums["patches"]),
    }
