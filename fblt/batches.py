"""Prompts through a model in sorted batches, which are always the same, so that a run that was killed can go on."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch.nn import Module
from tqdm.auto import tqdm

from modeling_fblt.configuration_fblt import BOS_ID, BYTE_OFFSET, PAD_ID

from .files import appearing_file

FORMAT = 1  # of journals; raise it when an entry changes its meaning


def sorted_batches(prompts: Sequence[bytes], rows: int) -> list[list[int]]:
    """Indices of prompts in batches of `rows`, the last one of what is left, by length.

    The longest come first: what takes most memory is tried at once.
    """
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    return [order[first : first + rows] for first in range(0, len(order), rows)]


def left_padded(prompts: Sequence[bytes]) -> tuple[torch.Tensor, torch.Tensor]:
    """`<s>` and the bytes of each prompt, padded on the left: ids `[batch, n]`, attention mask `[batch, n]`.

    The bytes are taken as they are: a literal `</s>` in them is four letters.
    """
    longest = max(map(len, prompts)) + 1
    ids = torch.full((len(prompts), longest), PAD_ID)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        first = longest - len(prompt) - 1
        ids[row, first:] = torch.tensor([BOS_ID, *(byte + BYTE_OFFSET for byte in prompt)])
        mask[row, first:] = 1
    return ids, mask


@torch.inference_mode()
def write(model, prompts: Sequence[bytes], **settings) -> tuple[list[list[int]], object]:
    """What a model writes after prompts, a batch of them.

    Args:
        settings: of `generate`.

    Returns:
        New ids of each row, up to and with its stop id if it wrote one; and what `generate` returned.
    """
    ids, mask = left_padded(prompts)
    output = model.generate(ids.to(model.device), attention_mask=mask.to(model.device), **settings)
    sequences = getattr(output, "sequences", output)
    stops = stop_ids(model)
    texts = []
    for row in sequences[:, ids.shape[1] :].tolist():
        end = next((place for place, found in enumerate(row) if found in stops), len(row))
        texts.append(row[: end + 1])
    return texts, output


def stop_ids(model) -> set[int]:
    """The ids that end a text."""
    found = model.generation_config.eos_token_id
    return set(found) if isinstance(found, list) else {found}


def bytes_of(ids: Sequence[int]) -> bytes:
    """The bytes among ids; special ones are left out."""
    return bytes(i - BYTE_OFFSET for i in ids if BYTE_OFFSET <= i < BYTE_OFFSET + 256)


def weights_digest(module: Module) -> str:
    """sha256 over names, shapes and values of the weights, sorted by name, each value as float32: so it is the same
    wherever the weights are, and whatever type that holds their values they are saved in.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        digest.update(f"{name} {list(weight.shape)}\n".encode())
        digest.update(weight.detach().cpu().float().contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


class Journal:
    """The finished batches of a run, beside its output, so that a run that was killed goes on after them.

    A line of JSON says what the run is, then a line for each batch has its number and results. A line is on disk before
    the next batch begins. One that was cut short counts as not written, so nothing is lost or doubled.

    Args:
        output: the file that the run will write; the journal is `.NAME-partial` beside it.
        run: what decides the results, fit for JSON.

    Attributes:
        finished: results by number of batch.

    Raises:
        ValueError: there is a journal of another run.
    """

    def __init__(self, output: Path, run: dict):
        self.path = output.with_name(f".{output.name}-partial")
        self.finished: dict[int, list] = {}
        output.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "a+b")
        try:
            self._read({"format": FORMAT, **run})
        except BaseException:
            self.file.close()
            raise

    def _read(self, run: dict) -> None:
        """Takes in what is there and cuts off what is not whole; a new journal gets its first line."""
        self.file.seek(0)
        lines, whole = [], 0
        for line in self.file:
            try:
                lines.append(json.loads(line) if line.endswith(b"\n") else None)
            except ValueError:
                break
            if lines[-1] is None:
                lines.pop()
                break
            whole += len(line)
        if len(lines) <= 1:  # nothing was computed, so nothing hangs on what the run was
            self.file.truncate(0)
            self._append(run)
            return
        self.file.truncate(whole)
        other = sorted(name for name in {*run, *lines[0]} if run.get(name) != lines[0].get(name))
        if other:
            raise ValueError(
                f"--output: {self.path} holds what an interrupted run wrote with another {', '.join(other)}; "
                "call it as it was called then, or remove that file"
            )
        self.finished = {number: results for number, results in lines[1:]}

    def _append(self, entry: object) -> None:
        self.file.write(json.dumps(entry).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def add(self, number: int, results: list) -> None:
        """Notes a batch's results, fit for JSON, as finished."""
        self._append([number, results])

    def close(self) -> None:
        """Leaves the journal for the next run."""
        self.file.close()

    def remove(self) -> None:
        """For a run whose output is written."""
        self.file.close()
        self.path.unlink(missing_ok=True)


@contextmanager
def written_result(output: Path | None, run: dict) -> Iterator[tuple[Journal | None, BinaryIO]]:
    """A file that takes the place of `output` when the block ends, with a journal until then; both stay beside it if
    the block fails. Standard output, and no journal, for None.

    Args:
        run: see [`Journal`].
    """
    if output is None:
        yield None, sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    journal = Journal(output, run)
    try:
        with appearing_file(output) as partial, partial.open("wb") as file:
            yield journal, file
        journal.remove()
    finally:
        journal.close()


def run_batches(
    prompts: Sequence[bytes],
    rows: int,
    compute: Callable[[int, list[int]], list],
    journal: Journal | None = None,
    label: str | None = None,
) -> list:
    """The result of each prompt, in their order; a bar on standard error counts their bytes.

    Args:
        rows: of a batch.
        compute: from a batch's number and the indices of its prompts to their results, fit for JSON with a journal.
        journal: of finished batches, which are not computed again.
        label: of the bar; None for no bar.
    """
    results: list = [None] * len(prompts)
    total = sum(map(len, prompts))
    with tqdm(total=total, desc=label, unit="B", unit_scale=True, disable=label is None) as bar:
        for number, batch in enumerate(sorted_batches(prompts, rows)):
            if journal is not None and number in journal.finished:
                found = journal.finished[number]
            else:
                found = compute(number, batch)
                if journal is not None:
                    journal.add(number, found)
            for index, result in zip(batch, found, strict=True):
                results[index] = result
            bar.update(sum(len(prompts[index]) for index in batch))
    return results
