"""Watch an FBLT checkpoint write with each of its decodings, then see what that saved.

Text is sampled from a fixed seed, since greedy text of a small model runs in loops; `--temperature 0` is greedy.
`blt-d`, which trades quality for calls, comes last.

\b
    make demo
    make demo ARGS="--threads 2"
    python examples/demo.py --prompt "It was a cold evening, and" --show-patches
    python examples/demo.py --decoding ar --decoding blt-dv --save-svg demo.svg
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script also runs without the repository being installed

from fblt.training.data.text import spaces_to_tabs  # noqa: E402
from fblt.training.evaluation.measures import distinct_ngrams_together  # noqa: E402
from fblt.training.evaluation.prompts import PROMPTS  # noqa: E402
from fblt.training.evaluation.traffic import COMPONENTS, calls, component_parameters, traffic_gb  # noqa: E402

from examples.display import PlainDisplay, RichDisplay, Several, recording_console  # noqa: E402
from fblt.commands import Command  # noqa: E402

DECODINGS = {
    "ar": "one byte at a time",
    "blt-s": "the decoder drafts ahead, the whole model verifies",
    "blt-dv": "blocks, verified by the whole model",
    "blt-d": "blocks, taken as they were drafted",
}
NEED_BLOCKS = ("blt-dv", "blt-d")
VERIFIED = ("blt-s", "blt-dv")
WARM_UP_BYTES = 16


@dataclass(frozen=True)
class Options:
    """The command's options; see `--help`."""

    prompt: Sequence[str]
    model: str
    max_new_bytes: int
    decoding: Sequence[str]
    temperature: float
    seed: int
    threads: int | None
    show_patches: bool
    no_color: bool
    save_svg: str | None


@dataclass
class Tally:
    """What one decoding wrote for all prompts, and what that took."""

    written: list[list[int]] = field(default_factory=list)
    seconds: float = 0.0
    calls: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COMPONENTS, 0.0))
    drafted: int = 0
    accepted: int = 0
    rounds: int = 0

    @property
    def bytes(self) -> int:
        return sum(map(len, self.written))

    def add(self, output, prompt_length: int, seconds: float) -> None:
        """Counts one generation, a `FBLTGenerateOutput` of one row."""
        self.written.append(output.sequences[0, prompt_length:].tolist())
        self.seconds += seconds
        for name, count in calls(output).items():
            self.calls[name] += count
        self.drafted += int(output.drafted.sum())
        self.accepted += int(output.accepted.sum())
        self.rounds += int(output.iterations.sum())


def load(path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a checkpoint with the code that it carries, in float32: near-ties then decide alike in every decoding."""
    if not (Path(path) / "config.json").is_file():
        raise ValueError(f"`--model` is {path!r}, where no config.json is: give a folder that save_pretrained wrote.")
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True, dtype=torch.float32)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def run(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: Options, display) -> dict[str, Tally]:
    """Writes on from every prompt with every decoding, and shows it."""
    prompts = [spaces_to_tabs(text) for text in options.prompt] if options.prompt else PROMPTS
    tallies = {decoding: Tally() for decoding in options.decoding}
    for number, prompt in enumerate(prompts, 1):
        display.heading(f"Prompt {number} of {len(prompts)}")
        inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
        length = inputs["input_ids"].shape[1]
        for decoding, tally in tallies.items():
            if number == 1:  # first calls set things up, which is not to be timed
                generate(model, inputs, decoding, WARM_UP_BYTES, options)
            title = f"{decoding}: {DECODINGS[decoding]}"
            with display.writing(title) as streamer:
                began = time.perf_counter()
                output = generate(model, inputs, decoding, options.max_new_bytes, options, streamer)
                seconds = time.perf_counter() - began - streamer.seconds
            tally.add(output, length, seconds)
            starts = None
            if options.show_patches:
                starts = model.patch(output.sequences).patch_starts[0, :-1].tolist()
            display.written(title, summarize(output, length), streamer, starts)
    return tallies


def generate(model: PreTrainedModel, inputs, decoding: str, length: int, options: Options, streamer=None):
    """Generation by one decoding; from the same seed each time if it samples."""
    sampling = {"do_sample": False}
    if options.temperature > 0:
        torch.manual_seed(options.seed)
        sampling = {"do_sample": True, "temperature": options.temperature, "top_k": 0}
    return model.generate(
        **inputs,
        **sampling,
        decoding=decoding,
        max_new_tokens=length,
        return_dict_in_generate=True,
        streamer=streamer,
    )


def summarize(output, prompt_length: int) -> str:
    written, rounds = output.sequences.shape[1] - prompt_length, int(output.iterations)
    return f"{written} bytes in {rounds} rounds, {written / rounds:.1f} each"


def busy(threads: int) -> str | None:
    """What to say if other work leaves fewer cores than torch has threads; None on a quiet machine."""
    if not hasattr(os, "getloadavg"):
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0]
    if load + threads <= cores + 0.5:
        return None
    return (
        f"This machine is busy (load {load:.1f} and {threads} of torch's threads on {cores} cores): speeds mean little"
    )


def table_rows(tallies: dict[str, Tally], parameters: dict[str, int], greedy: bool) -> list[tuple[str, list[str]]]:
    """The table, one column per decoding: label and cells of each row. Only greedy text is to be the same for all."""
    plain = tallies.get("ar")
    columns = []
    for decoding, tally in tallies.items():
        per_byte = {name: count / tally.bytes for name, count in tally.calls.items()}
        column = {"bytes written": str(tally.bytes), "bytes per round": f"{tally.bytes / tally.rounds:.2f}"}
        for name in ("decoder", "encoder", "global", "patcher"):
            column[f"{name} calls per byte"] = f"{per_byte[name]:.3f}"
        for label, with_patcher in (("traffic per byte", False), ("  with the patcher", True)):
            traffic = traffic_gb(tally.calls, parameters, with_patcher=with_patcher) / tally.bytes
            column[f"{label}, MB"] = f"{1000 * traffic:.3g}"
            column[f"{label}, of ar's"] = "-"
            if plain:
                reference = traffic_gb(plain.calls, parameters, with_patcher=with_patcher) / plain.bytes
                column[f"{label}, of ar's"] = f"{traffic / reference:.0%}"
        speed = tally.bytes / tally.seconds
        column["bytes per second"] = f"{speed:.0f}"
        column["  times ar's"] = f"{speed * plain.seconds / plain.bytes:.2f}x" if plain else "-"
        kept = f"{tally.accepted / tally.drafted:.0%}" if tally.drafted else "-"
        column["drafted bytes kept"] = "unchecked" if decoding == "blt-d" else kept
        column["distinct 8-grams"] = f"{distinct_ngrams_together(tally.written):.0%}"
        if greedy:
            column["same bytes as ar"] = compare(tally, plain)
        columns.append(column)
    return [(label, [column[label] for column in columns]) for label in columns[0]]


def compare(tally: Tally, plain: Tally | None) -> str:
    """Whether a decoding wrote what plain decoding did."""
    if plain is None or tally is plain:
        return "-"
    same = sum(a == b for a, b in zip(tally.written, plain.written, strict=True))
    return "yes" if same == len(plain.written) else f"{same} of {len(plain.written)}" if same else "no"


def notes(tallies: dict[str, Tally], parameters: dict[str, int], options: Options) -> list[str]:
    """What a reader of the table should know."""
    greedy = options.temperature == 0
    sizes = ", ".join(f"{name} {parameters[name] / 1e6:.2f} M" for name in COMPONENTS if parameters.get(name))
    lines = [
        "Text is greedy, and small models repeat themselves: what is repeated is easy to draft, so other text gains "
        "less. The share of distinct 8-grams (strings of 8 bytes) tells how much is new."
        if greedy
        else f"Text is sampled at temperature {options.temperature:g} from seed {options.seed}. Verified decodings "
        f"({', '.join(VERIFIED)}) draw from the same distribution as ar, though not the same bytes; blt-d does not.",
        "Traffic is Eq. 8 of the paper, 2 bytes per parameter read: decoder calls read the decoder, global calls the "
        f"encoder and the global transformer. Parameters: {sizes}; tables of byte and hash embeddings are left out, "
        "since a lookup reads a few rows only.",
        "Calls and seconds include reading the prompt. Speed is a single timing on this machine, and much of a small "
        "network's time is Python's own.",
    ]
    plain = tallies.get("ar")
    unequal = (
        []
        if not greedy
        else [name for name in VERIFIED if name in tallies and compare(tallies[name], plain) not in ("yes", "-")]
    )
    if unequal:
        lines.append(
            f"{', '.join(unequal)}: a verified decoding can differ from ar where two bytes are equally likely."
        )
    return lines


@click.command(cls=Command, help=__doc__)
@click.option(
    "--prompt",
    multiple=True,
    metavar="TEXT",
    help="Write on from this text instead of the built-in ones; may be given several times. Four spaces at the start "
    "of a line become a tab, as in the training data.",
)
@click.option(
    "--model",
    default=str(ROOT / "checkpoints" / "fblt-demo"),
    metavar="PATH",
    help="Checkpoint folder (default: checkpoints/fblt-demo).",
)
@click.option("--max-new-bytes", type=click.IntRange(min=1), default=160, show_default=True, metavar="N")
@click.option(
    "--decoding",
    type=click.Choice(list(DECODINGS)),
    multiple=True,
    default=list(DECODINGS),
    help="May be given several times (default: all).",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.7,
    show_default=True,
    help="Of sampling; 0 is greedy, and then verified decodings are compared with ar.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of sampling.")
@click.option("--threads", type=click.IntRange(min=1), help="Torch threads; torch's choice if not given.")
@click.option("--show-patches", is_flag=True, help="Mark where patches begin.")
@click.option("--no-color", is_flag=True, help="Plain text, as without a terminal.")
@click.option("--save-svg", metavar="PATH", help="Also write a picture of the output.")
def main(**given) -> None:
    options = Options(**given)
    console = Console()
    lively = console.is_terminal and not console.is_dumb_terminal and not console.no_color and not options.no_color
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    warning = busy(torch.get_num_threads())
    model, tokenizer = load(options.model)
    display = RichDisplay(console) if lively else PlainDisplay()
    recorder = recording_console()
    if options.save_svg:
        display = Several(display, RichDisplay(recorder))
    if warning:
        display.heading(warning)
    if model.config.block_size is None and (dropped := [d for d in options.decoding if d in NEED_BLOCKS]):
        options = replace(options, decoding=[d for d in options.decoding if d not in NEED_BLOCKS])
        display.heading(f"Without {', '.join(dropped)}: this checkpoint was not trained with blocks.")
    tallies = run(model, tokenizer, options, display)
    parameters = component_parameters(model)
    rows = table_rows(tallies, parameters, greedy=options.temperature == 0)
    display.table(list(tallies), rows, [*([warning] if warning else []), *notes(tallies, parameters, options)])
    if options.save_svg:
        recorder.save_svg(options.save_svg, title="make demo")


if __name__ == "__main__":
    main()
