"""The one reader of texts: whatever `datasets` reads -> memory-mapped documents, and what a manifest says of them.

A location is a file, a glob, a folder of files, a folder that `datasets` saved, or a Hub name. Files of text are one
document each; JSONL, CSV, Parquet and Arrow have a document per row.
"""

import glob
import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
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

from .manifest import described_sources, is_packed
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
COLUMN_OPTIONS = "give `--text-column`, or `--prompt-column` and `--completion-column`"
OWN_COLUMNS = "call the texts `text`, or give `prompt` and `completion`"
STRING, LONG_STRING = Value("string"), Value("large_string")


@dataclass(frozen=True)
class Source:
    """Where texts are.

    Attributes:
        name: what limits, licences and the manifest call it.
        location: a file, a glob, a folder of files, a folder that `datasets` saved, or `HUB_NAME[:CONFIG]`.
        given_as: the option or the recipe's key that gave it, for messages.
        by_column: where a saved folder has no manifest, its column `source` tells parts apart.
    """

    name: str
    location: str
    given_as: str = "--source"
    by_column: bool = False

    def __str__(self) -> str:
        return f"`{self.given_as}` {self.location!r}"

    @property
    def folder(self) -> Path | None:
        """The folder, if it is one that `datasets` saved."""
        saved = ("dataset_dict.json", "state.json")
        return Path(self.location) if any(Path(self.location, name).is_file() for name in saved) else None

    @property
    def is_local(self) -> bool:
        return os.path.exists(self.location) or glob.has_magic(self.location)

    @cached_property
    def parts(self) -> dict[str, str] | None:
        """Licences of the sources that a saved folder's manifest names; its column `source` tells them apart."""
        if self.folder is None:
            return None
        found = described_sources(self.folder)
        if not found and self.by_column:
            splits = load_saved(self.folder).values()
            columns = [documents.unique("source") for documents in splits if "source" in documents.column_names]
            found = {name: "" for names in columns for name in names}
        return found or None

    @property
    def part_names(self) -> list[str]:
        """The sources that it holds: its parts, or itself."""
        return list(self.parts or [self.name])


@dataclass
class Opened:
    """A source's documents.

    Attributes:
        splits: by split, memory-mapped or yet to be streamed; columns of text under our names, and `source` if the
            source has parts.
        paths: the files that they were read from, addresses of those on the Hub.
    """

    source: Source
    splits: dict[str, Dataset | IterableDataset]
    paths: list[str] = field(default_factory=list)


def parse_source(text: str) -> Source:
    """`[NAME=]LOCATION` as given on the command line.

    Raises:
        ValueError: there is nothing, or nothing to call it by.
    """
    named = re.fullmatch(r"([\w.-]+)=(.+)", text)
    name, location = (named[1], named[2]) if named else ("", text)
    source = Source(name or _stem(location), location)
    if not name and (glob.has_magic(source.name) or not source.name):
        raise ValueError(f"`--source` {text!r} needs a name: give NAME={location}.")
    check_source(source)
    return source


def data_source(location: str | Path, given_as: str) -> Source:
    """The one source of a recipe or of a command that reads text, on this machine; see [`Source`].

    Raises:
        ValueError: there is nothing.
    """
    location = str(location)
    name = _stem(location)
    source = Source("data" if glob.has_magic(name) or not name else name, location, given_as, by_column=True)
    check_source(source)
    return source


def check_source(source: Source) -> None:
    """Raises a `ValueError` that says what to give, if there is nothing to read."""
    if source.is_local and glob.has_magic(source.location) and not local_files(source.location):
        raise ValueError(f"{source} matches no file: give another pattern, `**` for any depth.")
    if not source.is_local and source.given_as != "--source":
        raise ValueError(
            f"{source} does not exist: give a folder, a file or a glob of text, JSONL, CSV or Parquet. `fblt pack` "
            f"packs data sets of the Hub; `fblt prepare demo --output {source.location}` makes the demo's text."
        )
    if not source.is_local and not HUB_NAME.fullmatch(source.location):
        raise ValueError(f"{source} does not exist: give a file, a glob, a folder or a Hub name.")
    if source.folder and is_packed(source.folder):
        raise ValueError(f"{source} holds packed rows: give the documents they were made of.")


def _stem(location: str) -> str:
    return Path(location).name.partition(".")[0].partition(":")[0]


def local_files(location: str) -> list[str]:
    """The files of a glob, of a folder without hidden files and notices, or the file itself; sorted, absolute."""
    pattern = os.path.join(glob.escape(location), "**") if os.path.isdir(location) else location
    found = [location] if os.path.isfile(location) else glob.glob(pattern, recursive=True)
    files = sorted(os.path.abspath(file) for file in found if os.path.isfile(file))
    if os.path.isdir(location):
        files = [file for file in files if not Path(file).name.lower().startswith(NOT_DATA)]
    return files


def load_saved(folder: Path) -> DatasetDict:
    """A folder that `datasets` saved; one without splits is all `train`.

    Raises:
        ValueError: it is damaged.
    """
    try:
        found = load_from_disk(str(folder))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{folder}: its files are damaged ({error!r}): make the folder anew.") from error
    return found if isinstance(found, DatasetDict) else DatasetDict(train=found)


@dataclass
class Found:
    """A source whose files are known, not read.

    Attributes:
        saved: its splits, if `datasets` saved it.
        builder: what reads it otherwise.
    """

    saved: DatasetDict | None
    builder: DatasetBuilder | None

    def files(self, wanted: Iterable[str]) -> list[str]:
        """Files of these splits, as far as there are such splits."""
        if self.saved is not None:
            return [
                entry["filename"] for split in wanted if split in self.saved for entry in self.saved[split].cache_files
            ]
        return [str(file) for split in wanted for file in (self.builder.config.data_files or {}).get(split, [])]


def find(source: Source, columns: list[str], cache: Path) -> Found:
    """Finds a source's files; see [`build`] for what is refused."""
    if source.folder:
        return Found(load_saved(source.folder), None)
    return Found(None, build(source, columns, cache))


def column_names(source: Source, cache: Path) -> list[str]:
    """The columns of a source's first split; of files, those of their first row."""
    found = find(source, [], cache)
    if found.saved is not None:
        return next(iter(found.saved.values())).column_names
    try:
        stream = next(iter(found.builder.as_streaming_dataset().values()))
        return stream.column_names or list(next(iter(stream), {}))
    except (DatasetsError, ValueError) as error:
        raise refused_file(source, found.files(found.builder.config.data_files or {}), cache, error) from error


def open_source(
    source: Source, columns: dict[str, str], wanted: Iterable[str] | None, scratch: Path, streaming: bool = False
) -> Opened:
    """Finds a source's files and, unless it is streamed, keeps its texts as Arrow files in `scratch` if they are not.

    Args:
        columns: our name of each column by the source's.
        wanted: splits to read, as far as the source has them, `train` among them; None for all there are.
        streaming: leave reading to [`read_streams`].

    Raises:
        ValueError: the source has no `train` split or lacks a column, a column is no text, or a file cannot be read.
    """
    found = find(source, list(columns), scratch / "cache")
    if found.saved is not None:
        available = found.saved
    else:
        try:
            if streaming:
                available = found.builder.as_streaming_dataset()
            else:
                found.builder.download_and_prepare()
                available = found.builder.as_dataset()
        except (DatasetsError, ValueError) as error:
            files = found.files(found.builder.config.data_files or {})
            raise refused_file(source, files, scratch / "cache", error) from error
    if wanted is not None and "train" not in available:
        raise ValueError(f"{source} has no split 'train', but {sorted(available)}: give one of them that name.")
    wanted = list(available) if wanted is None else wanted
    keep = [*columns, "source"] if source.parts else list(columns)
    renamed = {theirs: ours for theirs, ours in columns.items() if theirs != ours}
    splits = {}
    for split in wanted:
        if split not in available:
            continue
        documents = available[split]
        check_columns(source, documents, keep)
        splits[split] = documents.select_columns(keep).rename_columns(renamed)
    return Opened(source, splits, found.files(wanted))


def read_streams(opened: Opened, scratch: Path, max_bytes: dict[str, int]) -> None:
    """Keeps the texts of a source that is streamed as Arrow files in `scratch`, of `train` no more than its limit."""
    name = opened.source.name
    for split, documents in opened.splits.items():
        if isinstance(documents, IterableDataset):
            limit = max_bytes.get(name) if split == "train" else None
            try:
                opened.splits[split] = collect(documents, scratch / "streamed" / name / split, limit)
            except (DatasetsError, ValueError) as error:
                raise refused_file(opened.source, opened.paths, scratch / "cache", error) from error


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
            raise ValueError(f"{source} is no path here, and not on the Hub: {error}") from error
    files = local_files(source.location)
    if not files:
        raise ValueError(f"{source} holds no files of text: give a folder that does.")
    first = {_format(file)[0]: file for file in reversed(files)}
    if len(first) != 1:
        examples = ", ".join(f"{_shown(file, source)!r} as {kind}" for kind, file in sorted(first.items()))
        raise ValueError(
            f"{source} holds files of several kinds, {sorted(first)} ({examples}): give a glob of files of one kind."
        )
    kind, settings = _format(files[0])
    if kind == "parquet" and columns:
        settings = {**settings, "columns": columns}
    if not os.path.isdir(source.location):
        return load_dataset_builder(kind, data_files=files, cache_dir=str(cache), **settings)
    builder = load_dataset_builder(kind, data_dir=source.location, cache_dir=str(cache), **settings)
    read = {os.path.abspath(file): split for split, found in builder.config.data_files.items() for file in found}
    if left := sorted(set(files) - set(read)):
        telling, split = min((file, split) for file, split in read.items())
        raise ValueError(
            f"{source}: the name of {_shown(telling, source)!r} tells split {str(split)!r}, but {len(left)} others do "
            f"not tell one, {_shown(left[0], source)!r} first: rename it, or put each split's files into a folder "
            "train, validation or test."
        )
    return builder


def _format(file: str) -> tuple[str, dict]:
    return FORMATS.get(Path(file.removesuffix(_compression(file))).suffix.lower(), TEXT)


def _shown(file: str, source: Source) -> str:
    """A file's name as a message gives it: below the folder that was given."""
    return os.path.relpath(file, source.location) if os.path.isdir(source.location) else os.path.basename(file)


def refused_file(source: Source, files: list[str], cache: Path, error: Exception) -> ValueError:
    """The error to raise for a source that cannot be read: it names the file, which is found by reading each alone."""
    local = [file for file in files if "://" not in file]
    for number, file in enumerate(local):
        kind, settings = _format(file)
        alone = cache / "alone" / str(number)
        try:
            load_dataset_builder(kind, data_files=[file], cache_dir=str(alone), **settings).download_and_prepare()
        except (DatasetsError, ValueError) as own:
            return ValueError(
                f"{source}: {_shown(file, source)!r} cannot be read as {kind}: {_reason(own)}. Mend it or leave it out."
            )
        finally:
            shutil.rmtree(alone, ignore_errors=True)
    return ValueError(f"{source} cannot be read: {_reason(error)}")


def _reason(error: BaseException) -> str:
    """The first line of what `datasets` stumbled over."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0].rstrip(".")


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
                f"{source} has no column {column!r}: it has {list(documents.features)}; "
                f"{COLUMN_OPTIONS if source.given_as == '--source' else OWN_COLUMNS}."
            )
        if feature not in (STRING, LONG_STRING):
            raise ValueError(f"{source}: column {column!r} holds {feature}, not strings.")


def describe_files(files: list[str]) -> list[dict]:
    """Of each file its name below their common folder, size in bytes and sha256; the address of one on the Hub, with
    its commit.
    """
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
