"""Lines -> training rows whose damage is drawn anew in every epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset as SavedDataset
from datasets import load_from_disk
from torch.utils.data import Dataset

from fblt.restoring import prompt_of
from modeling_fblt.modeling_fblt import FBLTModel

from ..data.restore.damage import draw_damage
from .instructions import encode_instruction
from .sequences import find_ragged_patch_starts

HELD_OUT = 2**31  # in place of an epoch: the damage of validation lines, the same in every run of a seed


def load_lines(data: str | Path, split: str) -> SavedDataset:
    """One split of a folder of lines.

    Raises:
        ValueError: no such folder or split, or no column `text`.
    """
    if not (Path(data) / "dataset_dict.json").is_file():
        raise ValueError(f"`data` {str(data)!r} holds no lines: make them with `fblt prepare restore --output {data}`.")
    splits = load_from_disk(str(data))
    if split not in splits:
        raise ValueError(
            f"`data` {str(data)!r} has no split {split!r}, but {sorted(splits)}: give a folder of lines that "
            "`fblt prepare restore` wrote, or add the split."
        )
    if "text" not in splits[split].column_names:
        raise ValueError(f"`data` {str(data)!r} has no column 'text': it has {splits[split].column_names}.")
    return splits[split]


def held_out_examples(lines: Sequence[str], damage: Mapping[str, float], seed: int) -> SavedDataset:
    """Prompts and completions with damage that does not depend on an epoch."""
    prompts = [prompt_of(draw_damage(line, damage, (seed, HELD_OUT, index))) for index, line in enumerate(lines)]
    return SavedDataset.from_dict({"prompt": prompts, "completion": list(lines)})


class DamagedLines(Dataset):
    """Rows of one line each: `<s>`, damaged line, newline, line, `</s>`, with labels on the line and `</s>` alone.

    Row `epoch * len(self) + index` is line `index` with that epoch's damage, so that rows are a function of seed and
    index alone, whichever process or worker draws them and however often the run was resumed.

    Args:
        lines: the texts.
        damage: shares of the kinds of damage.
        seed: of the damage.
        longest: ids of a row; no line may need more.

    Raises:
        ValueError: a line may need more than `longest` ids.
    """

    def __init__(self, lines: Sequence[str], damage: Mapping[str, float], seed: int, longest: int):
        self.lines, self.damage, self.seed = list(lines), dict(damage), seed
        sizes = np.array([len(line.encode("utf-8")) for line in self.lines], dtype=np.int64)
        # Damage hardly lengthens a line: `ß` and `œ` have two bytes and become two; doubled letters do, now and then.
        self.lengths = 2 * sizes + 3
        if len(sizes) == 0 or self.lengths.max() > longest:
            found = f"a line of {int(sizes.max())} bytes" if len(sizes) else "no lines"
            raise ValueError(
                f"`sequence_length` is {longest}, but the data has {found}: rows need twice a line's bytes and 3."
            )
        self.longest = longest

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        epoch, index = divmod(row, len(self.lines))
        line = self.lines[index]
        ids, labels = encode_instruction(prompt_of(draw_damage(line, self.damage, (self.seed, epoch, index))), line)
        return {"input_ids": torch.from_numpy(ids[: self.longest]), "labels": torch.from_numpy(labels[: self.longest])}


def lines_of(recipe: Mapping) -> dict[str, list[str]]:
    """Training and validation lines of a recipe with `damage`; with `longest_line`, longer ones are left out.

    Raises:
        ValueError: `recipe["data"]` holds no lines, or none that are short enough.
    """
    lines = {split: load_lines(recipe["data"], split)["text"] for split in ("train", "validation")}
    if "longest_line" in recipe:
        limit = recipe["longest_line"]
        lines = {split: [line for line in own if len(line.encode()) <= limit] for split, own in lines.items()}
        if empty := [split for split, own in lines.items() if not own]:
            raise ValueError(
                f"`longest_line` is {limit}, but every line of {empty} in {recipe['data']!r} is longer: raise it."
            )
    return lines


def damaged_rows(recipe: Mapping, most: int) -> dict[str, np.ndarray]:
    """Rows `[rows, sequence_length]` of a recipe with `damage`, to train a draft head on: damaged lines and lines, laid
    end to end and cut. Of the training lines, up to `most` are drawn.

    Raises:
        ValueError: `recipe["data"]` holds no lines, or too few for one row.
    """
    data, damage, seed, length = (recipe[name] for name in ("data", "damage", "seed", "sequence_length"))
    found = {}
    for split, lines in lines_of(recipe).items():
        order = np.random.default_rng(seed).permutation(len(lines))[:most]
        drawn = held_out_examples([lines[place] for place in order], damage, seed)
        encoded = [encode_instruction(example["prompt"], example["completion"])[0] for example in drawn]
        rows = sum(map(len, encoded)) // length
        if rows == 0:
            raise ValueError(f"`data` {data!r}, split {split!r}, holds less than one row of {length} ids.")
        found[split] = np.concatenate(encoded)[: rows * length].reshape(rows, length)
    return found


def lines_for_model(recipe: Mapping, model: FBLTModel) -> dict[str, Dataset | SavedDataset]:
    """The rows of a recipe with `damage`: for training drawn when they are asked for, for validation made once.

    Raises:
        ValueError: `recipe["data"]` holds no lines, or lines too long for `sequence_length`.
    """
    damage, seed, longest = (recipe[name] for name in ("damage", "seed", "sequence_length"))
    lines = lines_of(recipe)
    train = DamagedLines(lines["train"], damage, seed, longest)
    held_out = held_out_examples(lines["validation"], damage, seed)
    encoded = [encode_instruction(example["prompt"], example["completion"]) for example in held_out]
    rows = [{"input_ids": ids[:longest], "labels": labels[:longest]} for ids, labels in encoded]
    starts = find_ragged_patch_starts(model, [row["input_ids"] for row in rows], progress=False)
    rows = [{**row, "patch_starts": found} for row, found in zip(rows, starts, strict=True)]
    return {"train": train, "validation": SavedDataset.from_list(rows).with_format("torch")}
