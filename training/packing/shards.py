"""Shards of rows: texts -> ids -> patch starts -> a `datasets` folder each, by one process or several."""

import json
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Features, List, Value, disable_progress_bars
from tqdm.auto import tqdm

from fblt.files import publish
from modeling_fblt.modeling_fblt import FBLTModel

from .corpus import Shard
from .instructions import encode_instruction
from .sequences import encode_document, find_patch_starts, find_ragged_patch_starts

COUNTS = "counts.json"  # beside a shard's Arrow file
TYPES = {"input_ids": "int16", "labels": "int16", "patch_starts": "bool"}


@dataclass
class Packer:
    """All that a process needs to make shards.

    Attributes:
        documents: texts, all columns of them.
        length: ids per row.
        batch_size: rows per call of the patcher.
        work: folder that the shards go to.
        model: finds patch starts; None to leave them to training.
        device: where it does.
    """

    documents: Dataset
    length: int
    batch_size: int
    work: Path
    model: FBLTModel | None
    device: str

    def write(self, shard: Shard) -> int:
        """Makes one shard; it appears whole. Returns its rows."""
        texts = self.documents[shard.documents]
        if "text" in texts:
            columns = self._document_rows(texts["text"], shard)
        else:
            columns = self._instruction_rows(texts["prompt"], texts["completion"])
        counts = {"rows": shard.rows, "ids": sum(map(len, columns["input_ids"]))}
        if "patch_starts" in columns:
            counts["patches"] = int(sum(starts[:-1].sum() for starts in columns["patch_starts"]))
        folder = shard.folder(self.work)
        written = folder.with_suffix(".writing")
        shutil.rmtree(written, ignore_errors=True)
        features = Features({name: List(Value(TYPES[name])) for name in columns})
        Dataset.from_dict(columns, features=features).save_to_disk(str(written), num_shards=1)
        (written / COUNTS).write_text(json.dumps(counts))
        publish(written, folder)
        return shard.rows

    def _document_rows(self, texts: list[str], shard: Shard) -> dict[str, np.ndarray]:
        stream = np.concatenate([encode_document(text) for text in texts])
        rows = stream[shard.skip : shard.skip + shard.rows * self.length].reshape(shard.rows, self.length)
        columns = {"input_ids": rows}
        if self.model is not None:
            columns["patch_starts"] = find_patch_starts(self.model, rows, self.batch_size, progress=False)
        return columns

    def _instruction_rows(self, prompts: list[str], completions: list[str]) -> dict[str, list[np.ndarray]]:
        pairs = [encode_instruction(*pair) for pair in zip(prompts, completions, strict=True)]
        columns = {
            "input_ids": [ids[: self.length].astype(np.int16) for ids, _ in pairs],
            "labels": [labels[: self.length].astype(np.int16) for _, labels in pairs],
        }
        if self.model is not None:
            columns["patch_starts"] = find_ragged_patch_starts(
                self.model, columns["input_ids"], self.batch_size, progress=False
            )
        return columns


def make_shards(packer: Packer, shards: list[Shard], workers: int) -> None:
    """Makes the shards that are not there yet. The first error ends the work; finished shards stay.

    On a CPU every worker computes in one thread, so that sums, and with them patch starts that hang on their last
    bit, do not depend on the number of workers or cores. With several GPUs the workers take turns at them.
    """
    missing = [shard for shard in shards if not shard.folder(packer.work).is_dir()]
    done = sum(shard.rows for shard in shards) - sum(shard.rows for shard in missing)
    with tqdm(initial=done, total=sum(shard.rows for shard in shards), desc="packing", unit="row") as bar:
        if workers == 1:
            threads = torch.get_num_threads()
            try:
                _get_ready(packer, 0)
                for shard in missing:
                    bar.update(packer.write(shard))
            finally:
                torch.set_num_threads(threads)
            return
        # Started afresh: a forked process can use neither the GPU nor the threads of its parent.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(
            min(workers, max(len(missing), 1)), context, _start_worker, (packer, context.Value("i", 0))
        ) as pool:
            tasks = [pool.submit(_write, shard) for shard in missing]
            try:
                for task in as_completed(tasks):
                    bar.update(task.result())
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise


def _get_ready(packer: Packer, rank: int) -> None:
    """Puts the model on its device; on a CPU, everything into one thread."""
    device = packer.device
    if device == "cuda":
        device = f"cuda:{rank % torch.cuda.device_count()}"
    if device == "cpu":
        torch.set_num_threads(1)
    if packer.model is not None:
        packer.model.to(device)
    disable_progress_bars()


_worker: Packer | None = None  # of a worker's process


def _start_worker(packer: Packer, started: Synchronized) -> None:
    global _worker
    with started.get_lock():
        rank = started.value
        started.value += 1
    _get_ready(packer, rank)
    _worker = packer


def _write(shard: Shard) -> int:
    return _worker.write(shard)
