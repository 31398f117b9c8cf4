"""Folders of packed rows that `fblt pack` made: checked against a model, and loaded."""

import os
import shlex
from pathlib import Path

from datasets import Dataset

from fblt.checksums import check_files, is_description
from modeling_fblt import FBLTForCausalLM
from modeling_fblt.modeling_fblt import FBLTModel

from ..data.inputs import load_saved
from ..data.manifest import MANIFEST, PACK, is_packed, read_manifest
from .patching import patching_settings

DECISIVE = ("arguments", "max_bytes", "patching", "sequence_length")  # of a manifest: what rows are checked by


def check_manifest(folder: str | Path, model: FBLTModel | FBLTForCausalLM) -> dict:
    """Returns the manifest of packed rows whose patch starts are those that `model` would find itself.

    Rows packed with `--patch-online` hold no patch starts, so any model may use them.

    Raises:
        ValueError: no packed rows there, a damaged manifest, or rows made with another patcher, threshold or patching
            mode; the message names both and the command that makes the folder anew.
    """
    if not is_packed(folder):
        raise ValueError(f"`data` {str(folder)!r} holds no packed rows: make them with `{PACK}`.")
    manifest = read_manifest(folder)
    if missing := [key for key in DECISIVE if key not in manifest]:
        raise ValueError(
            f"{Path(folder) / MANIFEST}: is damaged: it lacks {missing}. Pack `data` {str(folder)!r} anew."
        )
    there, here = manifest["patching"], patching_settings(model)
    if not isinstance(there, dict | None):
        raise ValueError(
            f"{Path(folder) / MANIFEST}: is damaged: `patching` is {there!r}. Pack `data` {str(folder)!r} anew."
        )
    if there is not None and there != here:
        differences = [
            f"`{name}` is {there.get(name)} in its manifest and {here.get(name)} in the model"
            for name in sorted(set(there) | set(here))
            if there.get(name) != here.get(name)
        ]
        name = model.config.name_or_path
        source = ["--model", name] if name else ["--recipe", "RECIPE"]  # a model that was never saved is a recipe's
        raise ValueError(
            f"`data` {str(folder)!r} was packed for another model: {'; '.join(differences)}. Pack it anew: "
            f"{command(manifest, [*source, '--output', str(folder), '--overwrite'])}"
        )
    return manifest


def command(manifest: dict, arguments: list[str]) -> str:
    """The command line that made a folder, with `arguments` for those that a manifest does not hold."""
    return shlex.join([*PACK.split(), *manifest["arguments"], *arguments])


def check_rows(data: str | Path, manifest: dict, split: str | None = None) -> None:
    """Compares the files of packed rows, or those of a split, with what was packed.

    Folders of earlier versions do not say that. Of the processes on a machine one reads them.

    Raises:
        ValueError: a file is damaged; the message names it.
    """
    files = manifest.get("files", {})
    if not is_description(files):
        raise ValueError(f"{Path(data) / MANIFEST}: is damaged: `files` is no list of files with their checksums.")
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        # `datasets` reads the small files of all splits.
        ours = {name for name in files if split is None or name.startswith(f"{split}/") or name.endswith(".json")}
        wanted = {name: entry for name, entry in files.items() if name in ours}
        check_files(Path(data), wanted)


def load_packed(
    data: str | Path,
    split: str,
    length: int,
    model: FBLTModel | FBLTForCausalLM,
    max_bytes: dict[str, int] | None = None,
) -> Dataset:
    """One split's rows, memory-mapped, as torch tensors: `input_ids`, `patch_starts` unless they are found online,
    and `labels` of instructions, whose prompts carry no loss.

    Raises:
        ValueError: see [`check_manifest`] and [`check_rows`]; or the rows are not of this length or, if given, not
            within these limits; or there is no such split.
    """
    manifest = check_manifest(data, model)
    if manifest["sequence_length"] != length:
        raise ValueError(
            f"`sequence_length` is {length}, but the rows of `data` {str(data)!r} were packed with "
            f"{manifest['sequence_length']}: give that, or pack anew with `--sequence-length {length}`."
        )
    if max_bytes is not None and manifest["max_bytes"] != max_bytes:
        raise ValueError(
            f"`max_bytes` is {max_bytes}, but the rows of `data` {str(data)!r} were packed with "
            f"{manifest['max_bytes']}: leave it out, or pack anew with `--max-bytes`."
        )
    check_rows(data, manifest, split)
    splits = load_saved(Path(data))
    if split not in splits:
        raise ValueError(
            f"`data` {str(data)!r} has no split {split!r}, but {sorted(splits)}: pack it with `--hold-out`, or turn "
            "evaluation off."
        )
    return splits[split].with_format("torch")
