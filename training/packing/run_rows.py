"""The rows of a run: packed rows as they are, or texts packed into the run's own folder, once."""

import hashlib
import inspect
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from datasets import Dataset
from transformers import TrainingArguments

from modeling_fblt.configuration_fblt import FBLTPatcherConfig
from modeling_fblt.modeling_fblt import FBLTModel

from ..data.inputs import Source, column_names, data_source, describe_files, find, load_saved, open_source
from ..data.manifest import is_packed, read_manifest
from .build import SCRIPT_VERSION, SPLITS, finish_published, pack_sources
from .instructions import COLUMNS
from .options import PackOptions, check_known
from .packed import check_rows, load_packed
from .patching import patching_settings
from .streamed import StreamedRows


def rows_for_model(recipe: dict, model: FBLTModel, splits: Sequence[str] = SPLITS) -> dict[str, Dataset]:
    """Each split's rows with the patch starts that `model` finds, as [`load_packed`] gives them.

    `recipe["data"]` is a folder of packed rows, or texts: those are packed into `<output>/rows` unless the same rows
    are there already.

    Raises:
        ValueError: the data cannot be read, or was packed for another model.
    """
    folder = recipe["data"]
    if not is_packed(folder):
        folder = pack_for_run(recipe, Path(recipe["output"]), recipe["sequence_length"], model)
    length, limits = recipe["sequence_length"], recipe.get("max_bytes")
    return {split: load_packed(folder, split, length, model, limits) for split in splits}


def stream_for_run(recipe: dict, arguments: TrainingArguments, saved_parts: int | None) -> StreamedRows:
    """The rows of a recipe's `stream`, for this process of its run.

    Args:
        saved_parts: of the checkpoint that the run goes on from, which decide where the recipe does not say.

    Raises:
        ValueError: there is nothing to read, or the processes cannot share it; see [`StreamedRows`].
    """
    source = data_source(recipe["stream"], "stream")
    processes = arguments.world_size
    parts = recipe.get("stream_parts", saved_parts or processes * max(1, arguments.dataloader_num_workers))
    with TemporaryDirectory() as scratch:
        documents = open_source(source, {"text": "text"}, ["train"], Path(scratch), streaming=True).splits["train"]
    if isinstance(documents, Dataset):
        documents = documents.to_iterable_dataset(num_shards=min(parts, len(documents)))
    return StreamedRows(
        documents,
        recipe["sequence_length"],
        parts,
        arguments.process_index,
        processes,
        seed=recipe["seed"],
        name=str(source),
    )


def rows_without_starts(recipe: dict, output: Path, length: int) -> dict[str, np.ndarray]:
    """Both splits' ids, cut into rows `[rows, length]`, to train a patcher on.

    The data is as for [`rows_for_model`]. Packed rows, and rows of instructions, are laid end to end and cut anew.
    """
    folder = recipe["data"]
    if not is_packed(folder):
        folder = pack_for_run(recipe, output, length, None)
    check_rows(folder, read_manifest(folder))
    splits = load_saved(Path(folder))
    if missing := [split for split in SPLITS if split not in splits]:
        raise ValueError(f"`data` {str(folder)!r} has no split {missing[0]!r}: pack it with `--hold-out`.")
    found = {}
    for split in SPLITS:
        stream = np.concatenate(splits[split].with_format("numpy")["input_ids"][:])
        rows = len(stream) // length
        if rows == 0:
            raise ValueError(f"`data`, split {split!r}, holds {len(stream)} ids: less than one row of {length}.")
        found[split] = stream[: rows * length].reshape(rows, length)
    return found


def pack_for_run(recipe: dict, output: Path, length: int, model: FBLTModel | None) -> Path:
    """Packs a recipe's texts into `<output>/rows/<name>`; the name stands for all that decides the rows.

    Returns:
        The folder, which is there already if the same rows were packed before.
    """
    source = data_source(recipe["data"], "data")
    with TemporaryDirectory() as scratch:
        instructions = set(COLUMNS) <= set(column_names(source, Path(scratch)))
    settings = {
        "source": [source.location],
        "sequence_length": length,
        "seed": recipe["seed"],
        "max_bytes": recipe.get("max_bytes") or {},
        "hold_out": recipe.get("hold_out"),
        "patch_online": model is None,
        "prompt_column": COLUMNS[0] if instructions else None,
        "completion_column": COLUMNS[1] if instructions else None,
    }
    folder = output / "rows" / row_name(source, PackOptions(**settings, output=output), model)
    finish_published(folder)
    if not folder.is_dir():
        licences = {name: licence or "not given" for name, licence in (source.parts or {source.name: ""}).items()}
        with in_words_of_a_recipe():
            check_known("--max-bytes", settings["max_bytes"], list(licences))
            pack_sources(PackOptions(**settings, output=folder), [source], licences, model)
    return folder


def row_name(source: Source, options: PackOptions, model: FBLTModel | None) -> str:
    """Names rows by everything that decides them: texts, how they are cut, and how patches are found."""
    columns = list(options.columns())
    with TemporaryDirectory() as scratch:
        files = describe_files(find(source, columns, Path(scratch)).files(SPLITS))
    patcher = {}
    if model is not None and model.patcher is not None:
        classes = [parent for parent in FBLTPatcherConfig.__mro__ if parent.__module__ == FBLTPatcherConfig.__module__]
        names = sorted(name for parent in classes for name in inspect.get_annotations(parent))
        patcher = {name: getattr(model.patcher.config, name) for name in names}
    decisive = {
        "version": SCRIPT_VERSION,
        "files": files,
        "sources": source.part_names,
        "columns": columns,
        "sequence_length": options.sequence_length,
        "seed": options.seed,
        "max_bytes": options.max_bytes,
        "hold_out": options.hold_out,
        "batch_size": options.batch_size,
        "patching": None if model is None else patching_settings(model),
        "patcher": patcher,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextmanager
def in_words_of_a_recipe() -> Iterator[None]:
    """Lets errors name a recipe's keys, `hold_out`, where packing names its options, `--hold-out`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(re.sub(r"`--([a-z-]+)`", lambda m: f"`{m[1].replace('-', '_')}`", str(error))) from error
