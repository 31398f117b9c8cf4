"""Writes the model card of a checkpoint from what was measured, the data's manifest and the recipe.

    python -m training.model_card --evaluation runs/eval.json --manifest data/demo/manifest.json \\
        --recipe training/recipes/demo.yaml --output checkpoints/fblt-demo/README.md
"""

import argparse
import json
import os
import sys
from pathlib import Path

from huggingface_hub import ModelCardData

from fblt.files import write_text_atomically

from ..evaluation.evaluate import FORMAT
from ..recipe import load_recipe
from .model_card_sections import (
    data,
    limits,
    metrics,
    overview,
    progress_section,
    recipe_section,
    samples,
    usage,
)

# Settings in which two evaluations may differ and still compare.
OF_NO_INFLUENCE = ("model", "batch_size", "device")


def model_card(
    evaluation: dict,
    manifest: dict,
    recipe: dict,
    folder: str,
    hours: float | None,
    hardware: str,
    before: dict | None = None,
) -> str:
    """The card's text: YAML metadata and Markdown.

    Args:
        evaluation: result of `training.evaluate`.
        manifest: the data's `manifest.json`.
        recipe: the training recipe.
        folder: where the checkpoint is loaded from in the example.
        hours: of training; what the checkpoint's own logs say when None.
        hardware: what it was trained on.
        before: evaluation of an earlier state of the checkpoint, to compare with.
    """
    metadata = ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["fblt", "byte-level", "block-diffusion", "custom_code"],
    )
    progress = dict(evaluation["checkpoint"]["training"] or {})
    if hours is not None:
        progress["hours"] = hours
    sections = [
        overview(Path(folder).name, evaluation),
        usage(folder),
        recipe_section(recipe, progress, hardware),
        data(manifest, recipe),
        metrics(evaluation),
        *([] if before is None else [progress_section(before, evaluation)]),
        samples(evaluation),
        limits(evaluation, manifest, recipe),
    ]
    return "\n\n".join([f"---\n{metadata.to_yaml()}\n---", *sections]) + "\n"


def read_json(option: str, path: Path) -> dict:
    """A JSON file named by an option.

    Raises:
        ValueError: no such file, or no JSON.
    """
    if not path.is_file():
        raise ValueError(f"--{option} {path}: no such file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"--{option} {path}: is no JSON ({error})") from error


def read_evaluation(option: str, path: Path) -> dict:
    """An evaluation of the format that this card understands."""
    evaluation = read_json(option, path)
    if evaluation.get("format") != FORMAT:
        raise ValueError(
            f"--{option} {path}: has format {evaluation.get('format')}; make it anew with training.evaluate"
        )
    if evaluation["settings"]["quick"]:
        raise ValueError(f"--{option} {path}: was made with --quick; a card needs the full evaluation")
    return evaluation


def read_before(path: Path, evaluation: dict) -> dict:
    """An evaluation of an earlier state, made as `evaluation` was.

    Raises:
        ValueError: it was made under other settings; the message names them.
    """
    before = read_evaluation("before", path)
    then, now = (
        {name: value for name, value in found["settings"].items() if name not in OF_NO_INFLUENCE}
        for found in (before, evaluation)
    )
    if other := sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name)):
        raise ValueError(
            f"--before {path}: was made with {other} other than --evaluation: make it anew under the same options"
        )
    return before


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.model_card", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--evaluation", type=Path, required=True, help="JSON file of training.evaluate")
    parser.add_argument("--before", type=Path, help="the same of an earlier state of the checkpoint, to compare with")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest.json of the data")
    parser.add_argument("--recipe", type=Path, required=True, help="YAML recipe of the training run")
    parser.add_argument("--hours", type=float, help="hours of training; default: as the checkpoint's logs say")
    parser.add_argument(
        "--hardware", default=f"{os.cpu_count()} CPU cores", help="what trained it; default: this machine's %(default)s"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("checkpoints/fblt-demo/README.md"), help="default: %(default)s"
    )
    options = parser.parse_args(arguments)
    try:
        evaluation = read_evaluation("evaluation", options.evaluation)
        before = None if options.before is None else read_before(options.before, evaluation)
        manifest = read_json("manifest", options.manifest)
        recipe = load_recipe(options.recipe)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    folder = os.path.relpath(options.output.parent)
    folder = options.output.resolve().parent.name if folder.startswith("..") else folder
    card = model_card(evaluation, manifest, recipe, folder, options.hours, options.hardware, before)
    write_text_atomically(options.output, card)
    print(f"written: {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
