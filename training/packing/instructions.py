"""Prompts and their completions -> rows for supervised fine-tuning: the prompt carries no loss and is never masked.

Data whose rows have strings `prompt` and `completion` is read so; see `data.inputs` for where it may stand.
"""

import numpy as np

from modeling_fblt.block_loss_fblt import IGNORED

from .sequences import encode_document

COLUMNS = ("prompt", "completion")


def encode_instruction(prompt: str, completion: str) -> tuple[np.ndarray, np.ndarray]:
    """`<s>`, prompt, completion, `</s>` as ids, and labels, -100 up to the prompt's end; both `[bytes + 2]`."""
    ids = encode_document(prompt + completion).astype(np.int64)
    labels = ids.copy()
    labels[: 1 + len(prompt.encode("utf-8"))] = IGNORED
    return ids, labels
