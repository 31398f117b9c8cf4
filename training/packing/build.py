"""Sources -> documents -> shards of rows -> one folder with its manifest. The one way from texts to rows."""

import json
import shutil
from pathlib import Path

import numpy as np
from datasets import DatasetDict, concatenate_datasets, load_from_disk

from fblt.checksums import describe
from fblt.files import publish, recover, write_text_atomically
from fblt.locks import LOCK, alone_in
from modeling_fblt.modeling_fblt import FBLTModel

from ..data.inputs import Opened, Source, describe_files, open_source, read_streams
from ..data.manifest import MANIFEST, PACK, read_manifest
from .corpus import SHARD_BYTES, Corpus, Shard, build_corpus, plan_shards
from .options import PackOptions, check_names, check_options, output_exists
from .parts import PLAN, read_plan, take_parts
from .patching import load_patching_model, patching_settings
from .shards import COUNTS, Packer, make_shards

SCRIPT_VERSION = 1  # raise it when the same inputs and settings give other rows
SPLITS = ("train", "validation")


def pack_corpus(options: PackOptions, shard_bytes: int = SHARD_BYTES) -> dict | None:
    """Packs and returns the manifest, None for a part. `options.output` appears only when it is complete.

    Args:
        shard_bytes: about how many bytes of rows a worker does at a time.

    Raises:
        ValueError: an argument cannot be used, or an unfinished folder is to become another one.
    """
    finished = finish_published(options.output)
    sources = check_options(options, finished is not None)
    licences = check_names(options, sources)
    model = None if options.patch_online else load_patching_model(options.model, options.recipe)
    return pack_sources(options, sources, licences, model, shard_bytes, finished)


def work_folder(output: Path) -> Path:
    """Where rows stand until they are complete."""
    return output.with_name(f".{output.name}-partial")


def finish_published(output: Path) -> dict | None:
    """Deletes what a process left that was killed while it published `output`, or after; returns its manifest then.

    Raises:
        ValueError: another process is packing `output`.
    """
    work = work_folder(output)
    if not work.is_dir():
        return None
    with alone_in(work, output):
        recover(work / "complete", output)
        file = work / PLAN
        manifest, plan = read_manifest(output), read_plan(file) if file.is_file() else None
        published = plan is not None and all(manifest.get(key) == value for key, value in plan.items())
        if published or not any(path.name != LOCK for path in work.iterdir()):
            delete_work(work)
        return manifest if published else None


def delete_work(work: Path) -> None:
    """Deletes a folder of work; its plan, which tells that it is done, goes last."""
    for path in work.iterdir():
        if path.name not in (PLAN, LOCK):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (work / PLAN).unlink(missing_ok=True)
    shutil.rmtree(work)


def pack_sources(
    options: PackOptions,
    sources: list[Source],
    licences: dict[str, str],
    model: FBLTModel | None,
    shard_bytes: int = SHARD_BYTES,
    finished: dict | None = None,
) -> dict | None:
    """As [`pack_corpus`], for sources and options that were checked.

    Args:
        licences: by source; of its parts if it has parts.
        model: finds the patch starts; None to leave them to training.
        finished: the manifest of rows that a killed process had published just before.
    """
    work = work_folder(options.output) if options.part is None else options.part.folder(options.output)
    with alone_in(work, options.output):
        opened = [open_source(source, options.columns(), SPLITS, work, options.streaming) for source in sources]
        origin = {
            "script": PACK,
            "script_version": SCRIPT_VERSION,
            "arguments": options.recorded(),
            "inputs": [{"location": found.source.location, "files": describe_files(found.paths)} for found in opened],
        }
        if finished is not None and not options.overwrite:
            delete_work(work)
            if any(finished.get(key) != value for key, value in origin.items()):
                raise output_exists(options.output)
            return finished
        check_unfinished(work, "inputs.json", origin)
        for found in opened:
            read_streams(found, work, options.max_bytes)
        columns = list(options.columns().values())
        corpus = build_corpus(opened, columns, options.max_bytes, options.hold_out, options.seed, work)
        shards, left_over = plan_shards(corpus, options.sequence_length, options.batch_size, shard_bytes)
        plan = {
            **origin,
            "rows": "documents" if len(columns) == 1 else "instructions",
            "sequence_length": options.sequence_length,
            "seed": options.seed,
            "max_bytes": options.max_bytes,
            "patching": None if model is None else patching_settings(model),
            "sources": source_counts(corpus, licences),
            "shards": {split: sum(shard.split == split for shard in shards) for split in corpus.splits},
        }
        check_unfinished(work, PLAN, plan)
        packer = Packer(corpus.documents, options.sequence_length, options.batch_size, work, model, options.device)
        if options.part is not None:
            make_shards(packer, options.part.of_shards(shards), options.workers)
            return None
        take_parts(options.output, work, plan, shards)
        make_shards(packer, shards, options.workers)
        manifest = assemble(work, shards, plan, left_over, opened)
        publish(work / "complete", options.output)
        delete_work(work)
    return manifest


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
    earlier = read_plan(file)
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
    names = [path.relative_to(complete).as_posix() for path in sorted(complete.rglob("*")) if path.is_file()]
    manifest = {**plan, "splits": counts, "files": describe(complete, names)}
    write_text_atomically(complete / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return manifest
