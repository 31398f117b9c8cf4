"""Streams of texts -> memory-mapped documents, in parts that outlive a kill."""

import json
import shutil
from itertools import count
from pathlib import Path

from datasets import Dataset, Features, IterableDataset, Value, concatenate_datasets, load_from_disk
from tqdm.auto import tqdm

from fblt.files import publish

POSITION = "position.json"  # beside a part's Arrow file: where the stream goes on
PART_BYTES = 2**24  # of text, the most that a kill loses and that memory holds


def collect(stream: IterableDataset, folder: Path, limit: int | None) -> Dataset:
    """Saves a stream's rows of texts in `folder`, part by part, and goes on after the parts that are there.

    The stream is left when the texts, in bytes of UTF-8, reach `limit`.
    """
    parts = sorted(part for part in folder.glob("[0-9]*") if part.suffix == "")
    position = json.loads((parts[-1] / POSITION).read_text()) if parts else {"bytes": 0, "ended": False}
    if parts:
        stream.load_state_dict(position["stream"])
    bar = tqdm(initial=position["bytes"], total=limit, desc=f"reading {folder.parent.name}", unit="B", unit_scale=True)
    rows = iter(stream)
    for number in count(len(parts)):
        if position["ended"]:
            break
        part, size, ended = [], 0, True
        for row in rows:
            part.append(row)
            grown = sum(len((text or "").encode("utf-8")) for text in row.values())
            size += grown
            bar.update(grown)
            full = limit is not None and position["bytes"] + size >= limit
            if full or size >= PART_BYTES:
                ended = full
                break
        position = {"bytes": position["bytes"] + size, "ended": ended, "stream": stream.state_dict()}
        written = folder / f"{number:05}.writing"
        shutil.rmtree(written, ignore_errors=True)
        # Inferred types would differ from part to part where one has missing texts only.
        features = stream.features or Features({name: Value("string") for name in part[0]} if part else {})
        Dataset.from_list(part, features=features).save_to_disk(str(written))
        (written / POSITION).write_text(json.dumps(position))
        publish(written, folder / f"{number:05}")
    bar.close()
    parts = [load_from_disk(str(part)) for part in sorted(folder.glob("[0-9]*")) if part.suffix == ""]
    return concatenate_datasets([part for part in parts if len(part)] or parts[:1])
