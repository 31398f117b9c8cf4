"""Rows of streamed texts: all of a stream's bytes, cut by rank and worker, exactly resumed from any row."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from fblt.training.packing.sequences import pack
from fblt.training.packing.streamed import StreamedRows, StreamLoader

LENGTH, WINDOW = 20, 4
TEXTS = [f"{number}: " + "é" * (number % 23) for number in range(157)]  # of many lengths, some longer than a row


def write_shards(folder: Path, kind: str, shards: int = 6) -> None:
    """The texts in files, dealt out in turns."""
    folder.mkdir()
    for shard in range(shards):
        part = Dataset.from_dict({"text": TEXTS[shard::shards]})
        file = str(folder / f"{shard}.{kind}")
        part.to_json(file) if kind == "jsonl" else part.to_parquet(file)


def stream(folder: Path):
    kind = next(folder.iterdir()).suffix[1:]
    files = sorted(map(str, folder.iterdir()))
    return load_dataset({"jsonl": "json"}.get(kind, kind), data_files=files, streaming=True, split="train")


def loader(documents, parts: int, batch: int, process: int = 0, processes: int = 1, workers: int = 0):
    rows = StreamedRows(documents, LENGTH, parts, process, processes, WINDOW)
    return StreamLoader(rows, batch, num_workers=workers)


def take(loader: StreamLoader, batches: int) -> list[list[tuple]]:
    """The next batches of rows."""
    found = []
    batch = iter(loader)
    for _ in range(batches):
        found.append([tuple(row) for row in next(batch)["input_ids"].tolist()])
    return found


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """The texts as files of either kind."""
    folders = {kind: tmp_path_factory.mktemp(kind) / "texts" for kind in ("jsonl", "parquet")}
    for kind, folder in folders.items():
        write_shards(folder, kind)
    return folders


@pytest.fixture(scope="module")
def folder(folders) -> Path:
    return folders["jsonl"]


def test_a_reading_gives_the_rows_of_the_texts_packed_end_to_end(folder):
    expected = pack([text for shard in range(6) for text in TEXTS[shard::6]], LENGTH)
    (found,) = take(loader(stream(folder), 1, len(expected)), 1)
    assert sorted(found) == sorted(map(tuple, expected.tolist()))
    assert not np.array_equal(found, expected)  # shuffled, window by window
    for first in range(0, len(expected) // 2, 40):  # and no further than that
        assert len(set(found[first : first + 40]) & set(map(tuple, expected[first : first + 60].tolist()))) > 20


@pytest.mark.parametrize(
    ("kind", "parts", "workers"), [("jsonl", 1, 0), ("parquet", 3, 0), ("jsonl", 9, 0), ("parquet", 2, 2)]
)
def test_a_stream_goes_on_exactly_from_any_batch(folders, kind, parts, workers):
    """Through more than one reading; nine parts have fewer shards than that."""

    def begin() -> StreamLoader:
        return loader(stream(folders[kind]), parts, 5, workers=workers)

    undisturbed, batches = begin(), 60
    whole = take(undisturbed, batches)
    assert any(place["reading"] > 0 for place in undisturbed.dataset.places.values())
    for stop in (31,) if workers else range(1, batches - 6, 9):
        first, second = begin(), begin()
        take(first, stop)
        second.dataset.load([json.loads(json.dumps(first.dataset.state()))])
        assert take(second, 6) == whole[stop : stop + 6]


def test_processes_share_the_rows_that_one_process_has_step_by_step_and_their_number_may_change(folder):
    """Twelve rows a step of six parts, by one process, by two, three, and six."""
    expected = [sorted(batch) for batch in take(loader(stream(folder), 6, 12), 6)]
    states, found = [], []
    for processes in (2, 6, 1, 3):
        loaders = [loader(stream(folder), 6, 12 // processes, process, processes) for process in range(processes)]
        for part in loaders:
            part.dataset.load(states)
        steps = 2 if processes == 6 else 1
        taken = [take(part, steps) for part in loaders]
        found += [sorted(row for part in taken for row in part[step]) for step in range(steps)]
        states = [part.dataset.state() for part in loaders]
    assert found == expected[: len(found)]


def test_what_cannot_be_shared_out_is_refused(folder):
    with pytest.raises(ValueError, match="`stream_parts` is 3.*multiple of 2"):
        StreamedRows(stream(folder), LENGTH, 3, 0, 2)
    rows = StreamedRows(stream(folder), LENGTH, 4)
    with pytest.raises(ValueError, match="`stream_parts` is 4, but 2"):
        rows.load([{"parts": 2, "places": {}}])
    with pytest.raises(ValueError, match="dataloader_num_workers` is 3"):
        take(loader(stream(folder), 4, 1, workers=3), 1)
    with pytest.raises(ValueError, match="no document for part 1 of 2"):
        take(loader(Dataset.from_dict({"text": ["alone"]}).to_iterable_dataset(), 2, 1), 9)
