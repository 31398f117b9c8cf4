"""Packs texts, from wherever `datasets` reads them, into rows of bytes with their patch starts, ready for training.

    python -m training.pack --source data/demo --model checkpoints/fblt-demo --sequence-length 512 --output data/packed
    python -m training.pack --source web='corpus/**/*.jsonl.gz' --license web=CC-BY-4.0 --hold-out 0.01 \\
        --recipe training/recipes/demo.yaml --sequence-length 2048 --workers 8 --output data/packed
    python -m training.pack --source chat=data/sft --prompt-column prompt --completion-column completion ...

A source is a file, a glob, a folder of files, a folder that `datasets` saved, or a Hub name. Documents stand end to
end, each closed by `</s>`; instructions take a row each. The patch starts are those that the model finds itself;
training refuses rows of another patcher. The folder appears when it is complete; killed, the same command goes on.
"""

import argparse
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import DatasetDict, concatenate_datasets, load_from_disk
from rich.console import Console
from rich.table import Table

from fblt.files import publish, write_text_atomically
from modeling_fblt.modeling_fblt import FBLTModel

from ..running.checkpoints import alone_in
from .corpus import SHARD_BYTES, Corpus, Shard, build_corpus, plan_shards
from .inputs import Opened, Source, open_source, parse_source, read_streams
from .packed import MANIFEST, SCRIPT, is_packed
from .patching import load_patching_model, patching_settings
from .shards import COUNTS, Packer, make_shards

SCRIPT_VERSION = 1  # raise it when the same inputs and settings give other rows
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class PackOptions:
    """The command's arguments; see `python -m training.pack --help`."""

    source: list[str]
    output: Path
    sequence_length: int
    model: str | None = None
    recipe: str | None = None
    patch_online: bool = False
    text_column: str | None = None
    prompt_column: str | None = None
    completion_column: str | None = None
    license: dict[str, str] = field(default_factory=dict)
    max_bytes: dict[str, int] = field(default_factory=dict)
    hold_out: float | None = None
    seed: int = 0
    streaming: bool = False
    batch_size: int = 32
    device: str = "cpu"
    workers: int = 1
    overwrite: bool = False

    def columns(self) -> dict[str, str]:
        """Our name of each column by the source's."""
        if self.prompt_column is not None:
            return {self.prompt_column: "prompt", self.completion_column: "completion"}
        return {self.text_column or "text": "text"}

    def recorded(self) -> list[str]:
        """The arguments that decide what is packed, as a command line takes them."""
        elsewhere = {"output", "model", "recipe", "workers", "overwrite"}
        arguments = []
        for name, value in vars(self).items():
            option = f"--{name.replace('_', '-')}"
            if name in elsewhere or value is None or value is False:
                continue
            if value is True:
                arguments.append(option)
            elif isinstance(value, dict):
                arguments += [part for key, given in value.items() for part in (option, f"{key}={given}")]
            else:
                values = value if isinstance(value, list) else [value]
                arguments += [part for given in values for part in (option, str(given))]
        return arguments


def pack_corpus(options: PackOptions, shard_bytes: int = SHARD_BYTES) -> dict:
    """Packs and returns the manifest. `options.output` appears only when it is complete.

    Args:
        shard_bytes: about how many bytes of rows a worker does at a time.

    Raises:
        ValueError: an argument cannot be used, or an unfinished folder is to become another one.
    """
    sources = check_options(options)
    licences = check_names(options, sources)
    model = None if options.patch_online else load_patching_model(options.model, options.recipe)
    work = options.output.with_name(f".{options.output.name}-partial")
    with alone_in(work):
        return pack_sources(options, sources, licences, model, work, shard_bytes)


def pack_sources(
    options: PackOptions,
    sources: list[Source],
    licences: dict[str, str],
    model: FBLTModel | None,
    work: Path,
    shard_bytes: int,
) -> dict:
    """Packs checked sources by way of the folder `work`."""
    opened = [open_source(source, options.columns(), SPLITS, work, options.streaming) for source in sources]
    origin = {
        "script": SCRIPT,
        "script_version": SCRIPT_VERSION,
        "arguments": options.recorded(),
        "inputs": [{"location": found.source.location, "files": found.files} for found in opened],
    }
    check_unfinished(work, "inputs.json", origin)
    for found in opened:
        read_streams(found, work, options.max_bytes)
    corpus = build_corpus(
        opened, list(options.columns().values()), options.max_bytes, options.hold_out, options.seed, work
    )
    shards, left_over = plan_shards(corpus, options.sequence_length, options.batch_size, shard_bytes)
    plan = {
        **origin,
        "rows": "documents" if len(corpus.columns) == 1 else "instructions",
        "sequence_length": options.sequence_length,
        "seed": options.seed,
        "max_bytes": options.max_bytes,
        "patching": None if model is None else patching_settings(model),
        "sources": source_counts(corpus, licences),
        "shards": {split: sum(shard.split == split for shard in shards) for split in corpus.splits},
    }
    check_unfinished(work, "plan.json", plan)
    packer = Packer(corpus.documents, options.sequence_length, options.batch_size, work, model, options.device)
    make_shards(packer, shards, options.workers)
    manifest = assemble(work, shards, plan, left_over, opened)
    publish(work / "complete", options.output)
    shutil.rmtree(work)
    return manifest


def check_options(options: PackOptions) -> list[Source]:
    """Raises an error that names argument, value and remedy; returns the sources."""
    numbers = {"sequence_length": 2, "seed": 0, "batch_size": 1, "workers": 1}
    for name, least in numbers.items():
        if getattr(options, name) < least:
            raise ValueError(f"`--{name.replace('_', '-')}` is {getattr(options, name)}: give {least} or more.")
    if options.hold_out is not None and not 0 <= options.hold_out < 1:
        raise ValueError(f"`--hold-out` is {options.hold_out}: give a share of the documents, 0 or more and below 1.")
    if sum((options.model is not None, options.recipe is not None, options.patch_online)) != 1:
        raise ValueError("Give one of `--model`, `--recipe` and `--patch-online`: what finds the patch starts.")
    if (options.prompt_column is None) != (options.completion_column is None):
        raise ValueError("Give `--prompt-column` and `--completion-column` together.")
    if options.text_column is not None and options.prompt_column is not None:
        raise ValueError("Give `--text-column`, or `--prompt-column` and `--completion-column`, not both.")
    if options.output.exists() and not options.overwrite:
        raise ValueError(f"`--output` {str(options.output)!r} exists: give another folder or pass `--overwrite`.")
    if options.output.exists() and not is_packed(options.output):
        raise ValueError(f"`--output` {str(options.output)!r} holds no packed rows, so it stays: give another folder.")
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`--device` {options.device!r} cannot be used here: {error}") from error
    return [parse_source(text) for text in options.source]


def check_names(options: PackOptions, sources: list[Source]) -> dict[str, str]:
    """Checks that limits and licences name sources; returns every source's licence."""
    given = [name for source in sources for name in source.parts or [source.name]]
    if twice := sorted({name for name in given if given.count(name) > 1}):
        raise ValueError(f"`--source` gives {twice} twice: call one of them otherwise, NAME=LOCATION.")
    for option, values in (("--max-bytes", options.max_bytes), ("--license", options.license)):
        if unknown := sorted(set(values) - set(given)):
            raise ValueError(f"`{option}` names {unknown}, but the sources are {given}.")
    licences = {name: value for source in sources for name, value in (source.parts or {source.name: ""}).items()}
    licences |= options.license
    if unlicensed := [name for name in given if not licences[name]]:
        raise ValueError(
            f"`--license` is missing for {unlicensed}: give `--license {unlicensed[0]}=SPDX-ID`, or what you know."
        )
    return licences


def source_counts(corpus: Corpus, licences: dict[str, str]) -> list[dict]:
    """Licence, documents and bytes of UTF-8 of each source by split."""
    counts: list[dict] = [{"name": name, "license": licences[name], "splits": {}} for name in corpus.names]
    for split, order in corpus.splits.items():
        documents = np.bincount(corpus.sources[order], minlength=len(counts))
        sizes = np.zeros(len(counts), dtype=np.int64)
        np.add.at(sizes, corpus.sources[order], corpus.sizes[order].sum(1))
        for count, number, size in zip(counts, documents.tolist(), sizes.tolist(), strict=True):
            count["splits"][split] = {"documents": number, "bytes": size}
    return counts


def check_unfinished(work: Path, name: str, plan: dict) -> None:
    """Notes in file `name` what an unfinished folder is to become, and refuses one that was to become another."""
    file = work / name
    if not file.is_file():
        write_text_atomically(file, json.dumps(plan, indent=2))
        return
    earlier = json.loads(file.read_text(encoding="utf-8"))
    differences = sorted(key for key in plan if earlier.get(key) != plan[key])
    if differences:
        raise ValueError(
            f"`--output`: {str(work)!r} holds unfinished rows that differ in {differences}: give the same arguments "
            "and files to finish them, or delete that folder to begin anew."
        )


def assemble(work: Path, shards: list[Shard], plan: dict, left_over: dict[str, int], opened: list[Opened]) -> dict:
    """Writes all shards as one `datasets` folder, `complete` in `work`, with its manifest, which is returned."""
    complete = work / "complete"
    shutil.rmtree(complete, ignore_errors=True)
    splits, counts = {}, {}
    for split in plan["shards"]:
        folders = [shard.folder(work) for shard in shards if shard.split == split]
        splits[split] = concatenate_datasets([load_from_disk(str(folder)) for folder in folders])
        found = [json.loads((folder / COUNTS).read_text(encoding="utf-8")) for folder in folders]
        total = {name: sum(part[name] for part in found) for name in found[0]}
        if "patches" in total:
            total["mean_patch_length"] = total["ids"] / total["patches"]
        counts[split] = {**total, "ids_left_over": left_over[split]}
    DatasetDict(splits).save_to_disk(str(complete))
    for found in opened:
        notices = Path(found.source.location, "licenses")
        if found.source.folder and notices.is_dir():  # licences ask that the notice goes with the text
            shutil.copytree(notices, complete / "licenses" / found.source.name)
    manifest = {**plan, "splits": counts}
    write_text_atomically(complete / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return manifest


def print_table(manifest: dict, console: Console) -> None:
    """Prints rows, MB (10^6 bytes) and patch length per split."""
    table = Table(title="packed")
    for heading in ("split", "documents", "MB of text", "rows", "bytes per patch"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for split, counts in manifest["splits"].items():
        parts = [source["splits"][split] for source in manifest["sources"]]
        length = f"{counts['mean_patch_length']:.2f}" if "patches" in counts else "found online"
        documents, size = (sum(part[key] for part in parts) for key in ("documents", "bytes"))
        table.add_row(split, str(documents), f"{size / 1e6:.2f}", str(counts["rows"]), length)
    console.print(table)


def parse_arguments(arguments: list[str] | None) -> PackOptions:
    parser = argparse.ArgumentParser(
        prog=f"python -m {SCRIPT}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--source", action="append", required=True, metavar="[NAME=]LOCATION", help="texts; may be given several times")
    add("--output", type=Path, required=True, help="folder to write")
    add("--sequence-length", type=int, required=True, metavar="BYTES", help="ids per row")
    add("--model", help="saved FBLT, folder or Hub name, whose patcher finds the patch starts")
    add("--recipe", help="YAML recipe whose patcher (`training.train_patcher`) or `init_from` finds them")
    add("--patch-online", action="store_true", help="leave the patch starts to training, which finds them at each step")
    add("--text-column", help="column of documents; default: text")
    add("--prompt-column", help="column of prompts, which carry no loss; with --completion-column")
    add("--completion-column", help="column of completions")
    add("--license", action="append", type=_pair, default=[], metavar="NAME=LICENCE", help="a source's licence")
    add("--max-bytes", action="append", type=_pair, default=[], metavar="NAME=BYTES", help="limit of a source in train")
    add("--hold-out", type=float, metavar="SHARE", help="documents that become validation where a source brings none")
    add("--seed", type=int, default=PackOptions.seed, help="of the documents' order; default: %(default)s")
    add("--streaming", action="store_true", help="read sources in order, up to their limits, not all of them first")
    add("--batch-size", type=int, default=PackOptions.batch_size, help="rows per patcher call; default: %(default)s")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="of the patcher; here: %(default)s")
    add("--workers", type=int, default=PackOptions.workers, help="processes, a thread each; default: %(default)s")
    add("--overwrite", action="store_true", help="replace packed rows in --output")
    options = vars(parser.parse_args(arguments))
    options["license"] = dict(options["license"])
    options["max_bytes"] = {name: _whole(parser, name, value) for name, value in options["max_bytes"]}
    return PackOptions(**options)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _whole(parser: argparse.ArgumentParser, name: str, value: str) -> int:
    if not value.isdecimal():
        parser.error(f"argument --max-bytes: {name}={value} is no whole number of bytes")
    return int(value)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        manifest = pack_corpus(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_table(manifest, Console())
    print(f"written: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
