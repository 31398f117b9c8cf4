"""Rows packed while they are trained on: texts are read as a stream, split among processes, and never kept.

A stream is cut into parts, which processes and their workers share out. Every part knows its place: where its stream of
texts goes on, and which of its rows were given. So a run goes on exactly, on any number of processes that divides the
parts.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from datasets import IterableDataset
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader, get_worker_info

from .sequences import collate, encode_document

WINDOW = 1024  # rows of a part that are shuffled among themselves
DOCUMENTS = 16  # read at a time
PLACES = "stream_{}.json"  # in a checkpoint, by process
START = {"reading": 0, "stream": None, "left": [], "window": 0, "given": 0, "rows": 0}


class StreamedRows(torch.utils.data.IterableDataset):
    """Rows without end: documents stand end to end, each from `<s>` to `</s>`, and are cut every `length` ids.

    A stream that ends is read again. Rows are given by this process's parts in turns.

    Args:
        stream: documents with a column `text`.
        parts: how many parts the stream has, a multiple of `processes`. Each is made of its own shards of the stream,
            or, where there are fewer shards than parts, of every so many-th document of all.
        process, processes: this one's number, and of how many.
        window: rows of a part that are drawn in random order, by `seed`; so many are in memory.
        name: what errors call the stream.

    Raises:
        ValueError: the parts cannot be shared out among the processes.
    """

    def __init__(
        self,
        stream: IterableDataset,
        length: int,
        parts: int,
        process: int = 0,
        processes: int = 1,
        window: int = WINDOW,
        seed: int = 0,
        name: str = "`stream`",
    ):
        if parts % processes:
            raise ValueError(
                f"`stream_parts` is {parts}, which {processes} processes cannot share: give a multiple of {processes}, "
                "or, to go on from a checkpoint, a number of processes that divides it."
            )
        self.stream, self.length, self.window, self.seed, self.name = stream, length, window, seed, name
        self.parts, self.own = parts, range(process, parts, processes)
        self.places = {part: START for part in range(parts)}

    def __iter__(self) -> Iterator[dict]:
        """Rows as `input_ids` `[length]` int16, each with its `part` and that part's `place` after it."""
        worker = get_worker_info()
        own = list(self.own) if worker is None else self._share(worker.id, worker.num_workers)
        readers = {part: self._rows(part) for part in own}
        given = {part: self.places[part]["rows"] for part in own}
        while True:
            part = min(own, key=lambda part: (given[part], part))
            row, place = next(readers[part])
            given[part] = place["rows"]
            yield {"input_ids": torch.from_numpy(row.copy()), "part": part, "place": place}

    def _share(self, worker: int, workers: int) -> list[int]:
        """The parts of a worker. Loaders begin with worker 0: it gets those whose turn it is."""
        if len(self.own) % workers:
            raise ValueError(
                f"`trainer.dataloader_num_workers` is {workers}, and a process has {len(self.own)} of the "
                f"{self.parts} parts of {self.name}: give a number that divides {len(self.own)}."
            )
        shares = [self.own[first::workers] for first in range(workers)]
        shares.sort(key=lambda share: sum(self.places[part]["rows"] for part in share))
        return list(shares[worker])

    def _rows(self, part: int) -> Iterator[tuple[np.ndarray, dict]]:
        """The rows of a part from its place on, each with the place after it."""
        place = self.places[part]
        texts = self._texts(part, place["reading"], place["stream"])
        while True:
            ids = [np.array(place["left"], dtype=np.int16)]
            size, ended = len(ids[0]), False
            # The end of a reading closes a window too: small texts should not be read twice for a first row.
            while size < self.window * self.length and not (ended and size >= self.length):
                documents, reading, stream, ended = next(texts)
                ids += [encode_document(text) for text in documents]
                size += sum(map(len, ids[len(ids) - len(documents) :]))
            joined = np.concatenate(ids)
            count = size // self.length
            rows = joined[: count * self.length].reshape(count, self.length)
            following = {
                "reading": reading,
                "stream": stream,
                "left": joined[count * self.length :].tolist(),
                "window": place["window"] + 1,
                "given": 0,
            }
            order = np.random.default_rng([self.seed, part, place["window"]]).permutation(count)
            for given in range(place["given"], count):
                total = place["rows"] + given + 1 - place["given"]
                after = following if given + 1 == count else place | {"given": given + 1}
                yield rows[order[given]], {**after, "rows": total}
            place = {**following, "rows": total}

    def _texts(self, part: int, reading: int, state: dict | None) -> Iterator[tuple[list[str], int, dict | None, bool]]:
        """Documents without end, with the reading and the stream's state after them, and whether a reading ended."""
        how = "shards" if self.stream.num_shards >= self.parts else "examples"
        documents = split_dataset_by_node(self.stream, rank=part, world_size=self.parts, strategy=how)
        while True:
            documents.set_epoch(reading)  # states are of a reading: that of an earlier one does not count
            if state is not None:
                documents.load_state_dict(state)
            empty = state is None
            # Unlike iterating over it, this does not share the stream out among workers once more.
            for batch in documents.iter(DOCUMENTS):
                empty = False
                if None in batch["text"]:
                    raise ValueError(f"{self.name} has a document without text: leave it out.")
                yield batch["text"], reading, documents.state_dict(), False
            if empty:
                raise ValueError(
                    f"{self.name} has no document for part {part} of {self.parts}: give more files, or less "
                    "`stream_parts`."
                )
            reading, state = reading + 1, None
            yield [], reading, None, True

    def state(self) -> dict:
        """What a checkpoint keeps of this process's parts; see [`load`]."""
        return {"parts": self.parts, "places": {str(part): self.places[part] for part in self.own}}

    def load(self, states: list[dict]) -> None:
        """Goes on from the states of all processes that wrote a checkpoint.

        Raises:
            ValueError: they are of another number of parts.
        """
        for state in states:
            if state["parts"] != self.parts:
                raise ValueError(
                    f"`stream_parts` is {self.parts}, but {state['parts']} in the checkpoint to go on from: give that."
                )
            self.places |= {int(part): place for part, place in state["places"].items()}


class StreamLoader(DataLoader):
    """Batches of streamed rows. Its dataset's places are those after the batches given, whatever workers read ahead."""

    def __init__(self, rows: StreamedRows, batch_size: int, **settings):
        # Without a generator of its own it takes a number from training's each time that it begins.
        super().__init__(rows, batch_size, collate_fn=collate_streamed, generator=torch.Generator(), **settings)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for batch, places in super().__iter__():
            self.dataset.places |= places
            yield batch


def collate_streamed(examples: list[dict]) -> tuple[dict[str, torch.Tensor], dict[int, dict]]:
    """A training batch, and the places of its parts after it."""
    places = {example.pop("part"): example.pop("place") for example in examples}
    return collate(examples), places


def read_states(checkpoint: Path | None) -> list[dict]:
    """What the processes of a run kept of their stream; nothing where it read none."""
    files = [] if checkpoint is None else sorted(checkpoint.glob(PLACES.format("*")))
    return [json.loads(file.read_text()) for file in files]


def saved_parts(checkpoint: Path | None) -> int | None:
    """How many parts the stream has that a checkpoint's run reads; None if it reads none."""
    states = read_states(checkpoint)
    return states[0]["parts"] if states else None
