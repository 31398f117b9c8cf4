"""Measures a checkpoint on held-out documents: next bytes, drafts on real text, and what each decoding writes.

\b
    fblt evaluate --model checkpoints/fblt-demo --data data/demo --output runs/eval.json
    fblt evaluate --model checkpoints/fblt-demo --data data/demo --choose-defaults

With `--choose-defaults` it measures instead which verified setting is fastest here, greedy and sampled, and writes that
into the checkpoint's generation_config.json.

Low call counts mean nothing where a text is a run of blanks or a loop: the block head is judged by accuracy on
non-blank bytes and by the leading correct bytes of its drafts of real text, free text by its distinct 8-grams.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import click
import torch
import transformers
from rich.console import Console
from transformers import AutoModelForCausalLM

from fblt.checksums import check_folder
from fblt.commands import Command
from fblt.files import write_text_atomically

from ..running.progress import progress_of
from .defaults import choose, speeds, write_defaults
from .drafts import draft_figures
from .next_bytes import next_byte_figures
from .plots import plot_evaluation
from .quality import quality_figures, verified_settings, words_of
from .samples import draw_anchors, draw_prompts, encode, limit, load_split
from .tables import print_evaluation, speed_table
from .writing import writing_figures

FORMAT = 1  # of the JSON file; raise it when a key changes its meaning
PROMPT_BYTES = 160
SAMPLES = 4
# What --quick sets where the option itself is not given: a look at a checkpoint while it trains.
QUICK = {
    "anchors": 256,
    "max_bytes": 40_000,
    "free_prompts": 4,
    "free_bytes": 64,
    "exact_prompts": 4,
    "quality_prompts": 2,
}
FULL = {
    "anchors": 2000,
    "max_bytes": None,
    "free_prompts": 24,
    "free_bytes": 192,
    "exact_prompts": 50,
    "quality_prompts": 24,
}


@dataclass(frozen=True)
class Options:
    """The command's options; see `fblt evaluate --help`."""

    model: str
    data: str
    split: str | None
    anchors: int
    context: int
    max_bytes: int | None
    row_length: int
    free_prompts: int
    free_bytes: int
    exact_prompts: int
    quality_prompts: int
    batch_size: int
    device: str
    output: str | None
    plot: str | None
    seed: int
    quick: bool
    choose_defaults: bool


def evaluate(model, options: Options) -> dict:
    """Every figure of a model under the command line's options, as the JSON file has it."""
    dataset, split = load_split(options.data, options.split)
    documents = encode(dataset)
    # Both fail early if the documents are too short for the options.
    anchors = draw_anchors(documents, options.anchors, model.config.block_size - 1, options.context, options.seed)
    most = max(options.free_prompts, options.exact_prompts, options.quality_prompts)
    prompts = draw_prompts(documents, most, PROMPT_BYTES, options.free_bytes, options.seed)
    read = documents if options.max_bytes is None else encode(limit(dataset, options.max_bytes, options.seed))
    return {
        "format": FORMAT,
        "settings": {
            **{k: v for k, v in vars(options).items() if k not in ("output", "plot", "choose_defaults")},
            "split": split,
            "prompt_bytes": PROMPT_BYTES,
        },
        "environment": {
            "device": str(model.device),
            "dtype": str(model.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "checkpoint": describe_checkpoint(model, Path(options.model)),
        "next_byte": next_byte_figures(model, read, options.row_length, options.batch_size),
        "drafts": draft_figures(model, anchors, options.batch_size, options.seed),
        "writing": writing_figures(
            model,
            prompts,
            options.free_prompts,
            options.exact_prompts,
            options.free_bytes,
            options.batch_size,
            SAMPLES,
        ),
        "quality": quality_figures(
            model,
            prompts[: options.quality_prompts],
            options.free_bytes,
            options.batch_size,
            options.seed,
            training_words(options.data),
        ),
    }


def training_words(data: str) -> set[str] | None:
    """The words of the data's training texts; None where it has no training split."""
    try:
        documents, _ = load_split(data, "train")
    except ValueError:  # that the data can be read is known by now
        return None
    return words_of(documents["text"])


def choose_defaults(model, options: Options) -> dict:
    """Measures verified settings on held-out prompts and writes the fastest one; what was measured and chosen."""
    dataset, _ = load_split(options.data, options.split)
    prompts = draw_prompts(encode(dataset), options.free_prompts, PROMPT_BYTES, options.free_bytes, options.seed)
    found = speeds(model, prompts, options.free_bytes, options.seed)
    chosen = choose(found)
    settings = verified_settings(model)[chosen]
    return {
        "speeds": found,
        "chosen": chosen,
        "written": write_defaults(Path(options.model), settings, model.config.block_size),
    }


def describe_checkpoint(model, folder: Path) -> dict:
    """Parameters per network, embedding tables included; MB (10^6 bytes) of weights as stored; training progress."""
    networks = {
        "patcher": model.model.patcher,
        "encoder": model.model.encoder,
        "global": model.model.global_transformer,
        "decoder": model.model.decoder,
        "next-byte head": model.lm_head,
        "draft head": getattr(model, "draft_head", None),
    }
    parameters = {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items() if net is not None}
    return {
        "parameters": parameters,
        "weights_mb": sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6,
        "block_size": model.config.block_size,
        "patching_threshold": model.config.patching_threshold,
        "training": progress_of(folder),
    }


def load_model(folder: str, device: str):
    """The checkpoint in float32, by the code it carries.

    Raises:
        ValueError: no checkpoint there, a damaged one, or one without a block head.
    """
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"--model {folder}: holds no config.json; give the folder of a saved FBLT")
    check_folder(Path(folder))
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
    if getattr(model.config, "block_size", None) is None:
        raise ValueError(
            f"--model {folder}: was not trained with blocks (`block_size` is None), so it has no drafts to judge"
        )
    return model.to(device).eval()


def parse_arguments(arguments: list[str]) -> Options:
    """The options that a command line gives, as the command itself takes them."""
    return options_of(**main.make_context("evaluate", list(arguments)).params)


def options_of(**given) -> Options:
    """The command's options, checked; those of samples' sizes that were not given are as `--quick` says.

    Raises:
        ValueError: a number is too small.
    """
    sizes = QUICK if given["quick"] else FULL
    options = Options(**given | {name: value for name, value in sizes.items() if given[name] is None})
    for name in (
        "anchors",
        "context",
        "row_length",
        "free_prompts",
        "free_bytes",
        "exact_prompts",
        "batch_size",
        "quality_prompts",
    ):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(options, name)}: give at least 1")
    if options.max_bytes is not None and options.max_bytes < 1:
        raise ValueError(f"--max-bytes {options.max_bytes}: give at least 1 byte, or leave it out for all text")
    if options.seed < 0:
        raise ValueError(f"--seed {options.seed}: give 0 or more")
    return options


@click.command(cls=Command, help=__doc__)
@click.option("--model", required=True, help="Folder of a saved FBLT.")
@click.option("--data", required=True, help="Held-out text: a prepared folder, files of text or JSONL.")
@click.option("--split", help="Default: test, or the only split of the data.")
@click.option("--anchors", type=int, help=f"Anchors for drafts; default: {FULL['anchors']}.")
@click.option("--context", type=int, default=512, show_default=True, help="Bytes fed before an anchor.")
@click.option("--max-bytes", type=int, help="Bytes of text for the next-byte figures; default: all.")
@click.option("--row-length", type=int, default=1024, show_default=True, help="Documents are cut into rows.")
@click.option("--free-prompts", type=int, help=f"Prompts for free text; default: {FULL['free_prompts']}.")
@click.option("--free-bytes", type=int, help=f"Bytes to write; default: {FULL['free_bytes']}.")
@click.option("--exact-prompts", type=int, help=f"Prompts to compare with ar on; default: {FULL['exact_prompts']}.")
@click.option(
    "--quality-prompts", type=int, help=f"Prompts for the text of every setting; default: {FULL['quality_prompts']}."
)
@click.option("--batch-size", type=int, default=32, show_default=True, help="Rows at a time.")
@click.option("--device", default=lambda: "cuda" if torch.cuda.is_available() else "cpu", help="Default: a GPU if any.")
@click.option("--output", help="JSON file to write.")
@click.option("--plot", help="PNG file to draw the figures into.")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws anchors, prompts and documents.")
@click.option("--quick", is_flag=True, help="Small samples, for a look while a model trains.")
@click.option("--choose-defaults", is_flag=True, help="Measure speed, and make the fastest setting the default.")
def main(**given) -> None:
    options = options_of(**given)
    model, console = load_model(options.model, options.device), Console()
    if options.choose_defaults:
        evaluation = choose_defaults(model, options)
        console.print(speed_table(evaluation))
    else:
        evaluation = evaluate(model, options)
        print_evaluation(evaluation, console)
    if options.output is not None:
        write_text_atomically(options.output, json.dumps(evaluation, indent=2, ensure_ascii=False) + "\n")
        click.echo(f"written: {options.output}")
    if options.plot is not None and not options.choose_defaults:
        plot_evaluation(evaluation, options.plot)
        click.echo(f"written: {options.plot}")


if __name__ == "__main__":
    main()
