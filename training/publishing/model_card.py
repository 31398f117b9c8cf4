"""Writes the model card of a checkpoint from what was measured, the data's manifest and the recipe.

\b
    fblt model-card --evaluation runs/eval.json --manifest data/demo/manifest.json \\
        --recipe training/recipes/demo.yaml --output checkpoints/fblt-demo/README.md
"""

import json
import os
from pathlib import Path

import click
from huggingface_hub import ModelCardData

from fblt.commands import Command
from fblt.files import write_text_atomically

from ..evaluation.evaluate import FORMAT
from ..recipe import load_recipe
from .model_card_sections import (
    data,
    folded,
    in_short,
    limits,
    metrics,
    overview,
    progress_section,
    recipe_section,
    samples,
    usage,
    wrapped,
)
from .restoration_card import restoration_card

# Settings in which two evaluations may differ and still compare.
OF_NO_INFLUENCE = ("model", "batch_size", "device", "quality_prompts")


def model_card(
    evaluation: dict,
    manifest: dict,
    recipe: dict,
    folder: str,
    hours: float | None,
    hardware: str,
    before: dict | None = None,
) -> str:
    """The card's text: YAML metadata and Markdown. Who opens it reads it in a minute; the long tables are folded.

    Args:
        evaluation: result of `fblt evaluate`.
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
        in_short(evaluation),
        limits(evaluation, manifest, recipe),
        folded("Training", recipe_section(recipe, progress, hardware)),
        folded("Data and licences", data(manifest, recipe)),
        folded("Metrics", metrics(evaluation)),
        *([] if before is None else [folded("Before and after", progress_section(before, evaluation))]),
        folded("Samples", samples(evaluation)),
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
        raise ValueError(f"--{option} {path}: has format {evaluation.get('format')}; make it anew with `fblt evaluate`")
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


@click.command(cls=Command, help=__doc__)
@click.option(
    "--evaluation",
    type=click.Path(path_type=Path),
    required=True,
    help="JSON file that `fblt evaluate` or `fblt evaluate-restoration` wrote.",
)
@click.option(
    "--before",
    type=click.Path(path_type=Path),
    help="The same of an earlier state of the checkpoint, to compare with.",
)
@click.option("--manifest", type=click.Path(path_type=Path), required=True, help="manifest.json of the data.")
@click.option("--recipe", type=click.Path(path_type=Path), required=True, help="YAML recipe of the training run.")
@click.option("--hours", type=float, help="Hours of training; default: as the checkpoint's logs say.")
@click.option("--earlier", metavar="TEXT", help="What the weights had been trained on before the recipe's run, if any.")
@click.option("--hardware", default=lambda: f"{os.cpu_count()} CPU cores", help="Default: this machine.")
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("checkpoints/fblt-demo/README.md"), show_default=True
)
def main(
    evaluation: Path,
    before: Path | None,
    manifest: Path,
    recipe: Path,
    hours: float | None,
    earlier: str | None,
    hardware: str,
    output: Path,
) -> None:
    data_manifest = read_json("manifest", manifest)
    settings = load_recipe(recipe)
    folder = os.path.relpath(output.parent)
    folder = output.resolve().parent.name if folder.startswith("..") else folder
    if "typo_rate" in (restored := read_json("evaluation", evaluation)):
        if before is not None:
            raise ValueError(f"--before {before}: does not go with an evaluation of restoration; leave it out")
        text = restoration_card(restored, data_manifest, settings, folder, hours, hardware, earlier)
    else:
        if earlier is not None:
            raise ValueError(f"--earlier {earlier!r}: goes with an evaluation of restoration alone; leave it out")
        now = read_evaluation("evaluation", evaluation)
        then = None if before is None else read_before(before, now)
        text = model_card(now, data_manifest, settings, folder, hours, hardware, then)
    write_text_atomically(output, wrapped(text))
    click.echo(f"written: {output}")


if __name__ == "__main__":
    main()
