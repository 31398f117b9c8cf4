"""Texts from wherever `datasets` reads them -> memory-mapped documents, with what a manifest says of their origin."""

import glob
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from datasets import (
    Dataset,
    DatasetBuilder,
    DatasetDict,
    Features,
    IterableDataset,
    Value,
    load_dataset_builder,
    load_from_disk,
)
from datasets.exceptions import DatasetsError
from tqdm.auto import tqdm

from .packed import is_packed, read_manifest
from .streams import collect

FORMATS = {
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
    ".json": ("json", {}),
    ".parquet": ("parquet", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".arrow": ("arrow", {}),
}
TEXT = ("text", {"sample_by": "document"})  # files with any other ending
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
NOT_DATA = ("readme", "license", "licence", "copying", "notice")
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
STRING, LONG_STRING = Value("string"), Value("large_string")


@dataclass(frozen=True)
class Source:
    """Where texts are.

    Attributes:
        name: what limits, licences and the manifest call it.
        location: a file, a glob, a folder of files, a folder that `datasets` saved, or `HUB_NAME[:CONFIG]`.
    """

    name: str
    location: str

    @property
    def folder(self) -> Path | None:
        """The folder, if it is one that `datasets` saved."""
        saved = ("dataset_dict.json", "state.json")
        return Path(self.location) if any(Path(self.location, name).is_file() for name in saved) else None

    @property
    def is_local(self) -> bool:
        return os.path.exists(self.location) or glob.has_magic(self.location)

    @property
    def parts(self) -> dict[str, str] | None:
        """Licences of the sources that a saved folder's manifest names; its column `source` tells them apart."""
        found = read_manifest(self.folder).get("sources", []) if self.folder else []
        return {part["name"]: part["license"] for part in found} or None


@dataclass
class Opened:
    """A source's documents.

    Attributes:
        splits: by split, memory-mapped or yet to be streamed; columns of text under our names, and `source` if the
            source has parts.
        files: of each file that was read, its name and sha256, or its address on the Hub, commit included.
    """

    source: Source
    splits: dict[str, Dataset | IterableDataset]
    files: list[dict]


def parse_source(text: str) -> Source:
    """`[NAME=]LOCATION` as given on the command line.

    Raises:
        ValueError: there is nothing, or nothing to call it by.
    """
    named = re.fullmatch(r"([\w.-]+)=(.+)", text)
    name, location = (named[1], named[2]) if named else ("", text)
    source = Source(name or Path(location).name.partition(".")[0].partition(":")[0], location)
    if not name and (glob.has_magic(source.name) or not source.name):
        raise ValueError(f"`--source` {text!r} needs a name: give NAME={location}.")
    if source.is_local and glob.has_magic(location) and not local_files(location):
        raise ValueError(f"`--source` {text!r} matches no file: give another pattern, `**` for any depth.")
    if not source.is_local and not HUB_NAME.fullmatch(location):
        raise ValueError(f"`--source` {text!r} does not exist: give a file, a glob, a folder or a Hub name.")
    if source.folder and is_packed(source.folder):
        raise ValueError(f"`--source` {text!r} holds packed rows: give the documents they were made of.")
    return source


def local_files(location: str) -> list[str]:
    """The files of a glob, of a folder without hidden files and notices, or the file itself; sorted, absolute."""
    pattern = os.path.join(glob.escape(location), "**") if os.path.isdir(location) else location
    found = [location] if os.path.isfile(location) else glob.glob(pattern, recursive=True)
    files = sorted(os.path.abspath(file) for file in found if os.path.isfile(file))
    if os.path.isdir(location):
        files = [file for file in files if not Path(file).name.lower().startswith(NOT_DATA)]
    return files


def open_source(
    source: Source, columns: dict[str, str], wanted: Iterable[str], scratch: Path, streaming: bool
) -> Opened:
    """Finds a source's files and, unless it is streamed, keeps its texts as Arrow files in `scratch` if they are not.

    Args:
        columns: our name of each column by the source's.
        wanted: splits to read, as far as the source has them.
        streaming: leave reading to [`read_streams`].

    Raises:
        ValueError: the source has no `train` split or lacks a column, or a column is no text.
    """
    if source.folder:
        found = load_from_disk(str(source.folder))
        found = found if isinstance(found, DatasetDict) else DatasetDict(train=found)
        files = [entry["filename"] for split in wanted if split in found for entry in found[split].cache_files]
    else:
        builder = build(source, list(columns), scratch / "cache")
        files = [str(file) for split in wanted for file in (builder.config.data_files or {}).get(split, [])]
        if streaming:
            found = builder.as_streaming_dataset()
        else:
            builder.download_and_prepare()
            found = builder.as_dataset()
    if "train" not in found:
        raise ValueError(f"`--source` {source.location!r} has no split 'train': it has {sorted(found)}.")
    keep = [*columns, "source"] if source.parts else list(columns)
    renamed = {theirs: ours for theirs, ours in columns.items() if theirs != ours}
    splits = {}
    for split in wanted:
        if split not in found:
            continue
        documents = found[split]
        check_columns(source, documents, keep)
        splits[split] = documents.select_columns(keep).rename_columns(renamed)
    return Opened(source, splits, describe_files(files))


def read_streams(opened: Opened, scratch: Path, max_bytes: dict[str, int]) -> None:
    """Keeps the texts of a source that is streamed as Arrow files in `scratch`, of `train` no more than its limit."""
    name = opened.source.name
    for split, documents in opened.splits.items():
        if isinstance(documents, IterableDataset):
            limit = max_bytes.get(name) if split == "train" else None
            opened.splits[split] = collect(documents, scratch / "streamed" / name / split, limit)


def build(source: Source, columns: list[str], cache: Path) -> DatasetBuilder:
    """What `datasets` reads a source with.

    Raises:
        ValueError: files of several kinds, files of no split, or no such Hub name.
    """
    if not source.is_local:
        name, _, config = source.location.partition(":")
        try:
            return load_dataset_builder(name, config or None)
        except (DatasetsError, OSError) as error:
            raise ValueError(f"`--source` {source.location!r} is no path here, and not on the Hub: {error}") from error
    files = local_files(source.location)
    formats = [FORMATS.get(Path(file.removesuffix(_compression(file))).suffix.lower(), TEXT) for file in files]
    kinds = sorted({kind for kind, _ in formats})
    if len(kinds) != 1:
        found = f"files of several kinds, {kinds}" if kinds else "no files"
        raise ValueError(f"`--source` {source.location!r} holds {found}: give a glob of files of one kind.")
    kind, settings = formats[0]
    if kind == "parquet":
        settings = {**settings, "columns": columns}
    if not os.path.isdir(source.location):
        return load_dataset_builder(kind, data_files=files, cache_dir=str(cache), **settings)
    builder = load_dataset_builder(kind, data_dir=source.location, cache_dir=str(cache), **settings)
    read = {os.path.abspath(file) for split in builder.config.data_files.values() for file in split}
    if left := sorted(set(files) - read):
        raise ValueError(
            f"`--source` {source.location!r}: some file names tell a split, but {os.path.basename(left[0])!r} and "
            f"{len(left) - 1} others do not: put each split's files into a folder train, validation or test."
        )
    return builder


def _compression(file: str) -> str:
    return next((ending for ending in COMPRESSED if file.lower().endswith(ending)), "")


def check_columns(source: Source, documents: Dataset | IterableDataset, columns: list[str]) -> None:
    """Raises an error that names a column that is missing or holds no text."""
    if documents.features is None:  # some streams tell only by their rows
        return
    for column in columns:
        feature = documents.features.get(column)
        if feature is None:
            raise ValueError(
                f"`--source` {source.location!r} has no column {column!r}: it has {list(documents.features)}; "
                "give `--text-column`, or `--prompt-column` and `--completion-column`."
            )
        if feature not in (STRING, LONG_STRING):
            raise ValueError(f"`--source` {source.location!r}: column {column!r} holds {feature}, not strings.")


def describe_files(files: list[str]) -> list[dict]:
    """Names below their common folder with sha256 and size in bytes; addresses of remote ones as they are."""
    local = [file for file in files if "://" not in file]
    root = os.path.dirname(local[0]) if len(local) == 1 else os.path.commonpath(local) if local else ""
    described = [{"name": file} for file in files if "://" in file]
    with tqdm(total=sum(map(os.path.getsize, local)), desc="hashing", unit="B", unit_scale=True) as bar:
        for file in local:
            with open(file, "rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            size = os.path.getsize(file)
            bar.update(size)
            described.append({"name": os.path.relpath(file, root), "bytes": size, "sha256": digest})
    return described


def texts_only(documents: Dataset, columns: list[str], kind: Value, cache: Path) -> Dataset:
    """The columns of text alone, as strings of one kind, so that sources can stand end to end."""
    documents = documents.select_columns(columns)
    wanted = Features({column: kind for column in columns})
    if documents.features == wanted:
        return documents
    # Its own cache would be beside the source's files.
    cache.parent.mkdir(parents=True, exist_ok=True)
    return documents.cast(wanted, cache_file_name=str(cache), load_from_cache_file=False)
