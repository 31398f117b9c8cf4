"""Prompts and their completions -> rows for supervised fine-tuning: the prompt carries no loss and is never masked.

Data is a folder with a JSONL file per split, or a saved `datasets` folder; each row has strings `prompt` and
`completion`.
"""

from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

from modeling_fblt.block_loss_fblt import IGNORED
from modeling_fblt.modeling_fblt import FBLTModel

from .sequences import encode_document, find_ragged_patch_starts

COLUMNS = ("prompt", "completion")


def is_instructions(data: str | Path) -> bool:
    """Whether a data folder holds prompts and completions rather than documents."""
    if (Path(data) / "train.jsonl").is_file():
        return True
    return (Path(data) / "dataset_dict.json").is_file() and set(COLUMNS) <= set(_saved(data)["train"].column_names)


def _saved(data: str | Path) -> DatasetDict:
    return load_from_disk(str(data))


def load_instructions(data: str | Path, split: str) -> Dataset:
    """One split's prompts and completions.

    Raises:
        ValueError: the split or a column is missing.
    """
    file = Path(data) / f"{split}.jsonl"
    if not (Path(data) / "dataset_dict.json").is_file():
        if not file.is_file():
            raise ValueError(f"`data` {str(data)!r} holds no {file.name}: give train.jsonl and validation.jsonl.")
        examples = load_dataset("json", data_files=str(file), split="train")
    else:
        examples = _saved(data)[split]
    missing = [column for column in COLUMNS if column not in examples.column_names]
    if missing:
        raise ValueError(f"`data` {str(data)!r}, split {split!r} has no {missing}: it has {examples.column_names}.")
    return examples


def encode_instruction(prompt: str, completion: str) -> tuple[np.ndarray, np.ndarray]:
    """`<s>`, prompt, completion, `</s>` as ids, and labels, -100 up to the prompt's end; both `[bytes + 2]`."""
    ids = encode_document(prompt + completion).astype(np.int64)
    labels = ids.copy()
    labels[: 1 + len(prompt.encode("utf-8"))] = IGNORED
    return ids, labels


def instruction_rows(examples: Dataset, length: int, model: FBLTModel, batch_size: int = 32) -> Dataset:
    """Rows of up to `length` ids, one example each, with labels and the patch starts the model finds.

    An example that is longer loses the end of its completion.

    Raises:
        ValueError: a prompt leaves no room for its completion.
    """
    rows = []
    for index, example in enumerate(examples):
        ids, labels = encode_instruction(*(example[column] for column in COLUMNS))
        if (labels[:length] == IGNORED).all():
            raise ValueError(
                f"`sequence_length` {length} holds nothing of the completion of example {index}, whose prompt has "
                f"{int((labels == IGNORED).sum()) - 1} bytes: give more, or leave the example out."
            )
        rows.append({"input_ids": ids[:length], "labels": labels[:length]})
    found = find_ragged_patch_starts(model, [row["input_ids"] for row in rows], batch_size)
    for row, starts in zip(rows, found, strict=True):
        row["patch_starts"] = starts
    return Dataset.from_list(rows).with_format("torch")
