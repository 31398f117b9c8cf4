"""Measures a checkpoint on held-out documents: next bytes, drafts on real text, and what each decoding writes.

    python -m training.evaluate --model checkpoints/fblt-demo --data data/demo --output runs/eval.json

Low call counts mean nothing where a text is a run of blanks or a loop: the block head is judged by accuracy on
non-blank bytes and by the leading correct bytes of its drafts of real text, free text by its distinct 8-grams.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import transformers
from rich.console import Console
from transformers import AutoModelForCausalLM

from fblt.files import write_text_atomically

from ..running.progress import progress_of
from .drafts import draft_figures
from .next_bytes import next_byte_figures
from .plots import plot_evaluation
from .samples import draw_anchors, draw_prompts, encode, limit, load_split
from .tables import print_evaluation
from .writing import writing_figures

FORMAT = 1  # of the JSON file; raise it when a key changes its meaning
PROMPT_BYTES = 160
SAMPLES = 4
# What --quick sets where the option itself is not given: a look at a checkpoint while it trains.
QUICK = {"anchors": 256, "max_bytes": 40_000, "free_prompts": 4, "free_bytes": 64, "exact_prompts": 4}
FULL = {"anchors": 2000, "max_bytes": None, "free_prompts": 24, "free_bytes": 192, "exact_prompts": 50}


def evaluate(model, options: argparse.Namespace) -> dict:
    """Every figure of a model under the command line's options, as the JSON file has it."""
    dataset = load_split(options.data, options.split)
    documents = encode(dataset)
    # Both fail early if the documents are too short for the options.
    anchors = draw_anchors(documents, options.anchors, model.config.block_size - 1, options.context, options.seed)
    most = max(options.free_prompts, options.exact_prompts)
    prompts = draw_prompts(documents, most, PROMPT_BYTES, options.free_bytes, options.seed)
    read = documents if options.max_bytes is None else encode(limit(dataset, options.max_bytes, options.seed))
    return {
        "format": FORMAT,
        "settings": {
            **{k: v for k, v in vars(options).items() if k not in ("output", "plot")},
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
    }


def describe_checkpoint(model, folder: Path) -> dict:
    """Parameters per network, embedding tables included; MB (10^6 bytes) of weights as stored; training progress."""
    networks = {
        "patcher": model.model.patcher,
        "encoder": model.model.encoder,
        "global": model.model.global_transformer,
        "decoder": model.model.decoder,
        "next-byte head": model.lm_head,
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
        ValueError: no checkpoint there, or one without a block head.
    """
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"--model {folder}: holds no config.json; give the folder of a saved FBLT")
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
    if getattr(model.config, "block_size", None) is None:
        raise ValueError(
            f"--model {folder}: was not trained with blocks (`block_size` is None), so it has no drafts to judge"
        )
    return model.to(device).eval()


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder of a saved FBLT")
    parser.add_argument("--data", required=True, help="folder of prepared data, such as data/demo")
    parser.add_argument("--split", default="test", help="default: %(default)s")
    parser.add_argument("--anchors", type=int, help=f"anchors for drafts; default: {FULL['anchors']}")
    parser.add_argument("--context", type=int, default=512, help="bytes fed before an anchor; default: %(default)s")
    parser.add_argument("--max-bytes", type=int, help="bytes of text for the next-byte figures; default: all")
    parser.add_argument(
        "--row-length", type=int, default=1024, help="documents are cut into rows; default: %(default)s"
    )
    parser.add_argument("--free-prompts", type=int, help=f"prompts for free text; default: {FULL['free_prompts']}")
    parser.add_argument("--free-bytes", type=int, help=f"bytes to write; default: {FULL['free_bytes']}")
    parser.add_argument(
        "--exact-prompts", type=int, help=f"prompts to compare with ar on; default: {FULL['exact_prompts']}"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="rows at a time; default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--output", help="JSON file to write")
    parser.add_argument("--plot", help="PNG file to draw the figures into")
    parser.add_argument("--seed", type=int, default=0, help="draws anchors, prompts and documents; default: 0")
    parser.add_argument("--quick", action="store_true", help="small samples, for a look while a model trains")
    options = parser.parse_args(arguments)
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    for name in ("anchors", "context", "row_length", "free_prompts", "free_bytes", "exact_prompts", "batch_size"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)}: give at least 1")
    if options.max_bytes is not None and options.max_bytes < 1:
        parser.error(f"--max-bytes {options.max_bytes}: give at least 1 byte, or leave it out for all text")
    if options.seed < 0:
        parser.error(f"--seed {options.seed}: give 0 or more")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        evaluation = evaluate(load_model(options.model, options.device), options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_evaluation(evaluation, Console())
    if options.output is not None:
        write_text_atomically(options.output, json.dumps(evaluation, indent=2, ensure_ascii=False) + "\n")
        print(f"written: {options.output}")
    if options.plot is not None:
        plot_evaluation(evaluation, options.plot)
        print(f"written: {options.plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
