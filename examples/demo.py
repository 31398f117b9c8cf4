"""Watch FBLT checkpoints write with each of their decodings, then see what that saved.

First damaged lines get their accents, capitals, punctuation and spelling back, greedily. Then text is written on from
prompts. It is sampled from a fixed seed, since greedy text of a small model runs in loops; `--temperature 0` is greedy.
`blt-d`, which trades quality for calls, comes last.

\b
    make demo
    make demo TEXT="der schlussel fur die datei fehlt"
    make demo ARGS="--threads 2"
    python examples/demo.py --part write --prompt "It was a cold evening, and" --show-patches
    python examples/demo.py --part restore --decoding ar --decoding blt-dv --save-svg demo.svg
"""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # so that the script also runs without the repository being installed

from fblt.training.data.text import spaces_to_tabs  # noqa: E402
from fblt.training.evaluation.prompts import PROMPTS  # noqa: E402
from fblt.training.evaluation.traffic import component_parameters  # noqa: E402

from examples.demo_table import Tally, notes, table_rows  # noqa: E402
from examples.display import PlainDisplay, RichDisplay, Several, recording_console  # noqa: E402
from fblt.commands import Command  # noqa: E402
from fblt.restoring import prompt_of, room_for  # noqa: E402

DECODINGS = {
    "ar": "one byte at a time",
    "blt-s": "the decoder drafts ahead, the whole model verifies",
    "blt-dv": "blocks, verified by the whole model",
    "blt-d": "blocks, taken as they were drafted",
}
NEED_BLOCKS = ("blt-dv", "blt-d")
WARM_UP_BYTES = 16
DEMO, RESTORER = ROOT / "checkpoints" / "fblt-demo", ROOT / "checkpoints" / "fblt-restore"
# Lines of documents that the bundled restorer was not trained on: German without marks, capitals and punctuation; Czech
# without marks; French with typing errors.
DAMAGED = (
    "wahlen sie die gewunschte kategorie oder geben sie einen suchbegriff ein",
    "Klepnete do dokumentu, pro ktery chcete zdroj dat zmenit.",
    "Apuyez sur Entrée pour acepter les modificatoins.",
)


@dataclass(frozen=True)
class Part:
    """One thing that a model does in front of the reader.

    Attributes:
        title: of its heading.
        option: the command's option that names the checkpoint.
        folder: the checkpoint.
        prompts: what the model is given, one text at a time.
        rooms: how many bytes it may write for each.
        temperature: of sampling; 0 is greedy.
    """

    title: str
    option: str
    folder: str
    prompts: Sequence[str]
    rooms: Sequence[int]
    temperature: float


@dataclass(frozen=True)
class Options:
    """The command's options; see `--help`."""

    part: Sequence[str]
    text: Sequence[str]
    restorer: str
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

    def parts(self) -> list[Part]:
        """What is to be shown, in its order."""
        prompts = [spaces_to_tabs(text) for text in self.prompt] or PROMPTS
        lines = [prompt_of(line) for line in self.text or DAMAGED]
        every = {
            "restore": Part(
                "Restoring damaged lines: what follows each is the line put right",
                "--restorer",
                self.restorer,
                lines,
                [room_for(line.encode()) for line in lines],
                temperature=0,
            ),
            "write": Part(
                "Writing on from a prompt",
                "--model",
                self.model,
                prompts,
                [self.max_new_bytes] * len(prompts),
                self.temperature,
            ),
        }
        # Who brings a line or a prompt wants to see that.
        brought = [name for name, given in (("restore", self.text), ("write", self.prompt)) if given]
        return [part for name, part in every.items() if name in (self.part or brought or every)]


def load(path: str, option: str = "--model") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a checkpoint with the code that it carries, in float32: near-ties then decide alike in every decoding."""
    if not (Path(path) / "config.json").is_file():
        raise ValueError(f"`{option}` is {path!r}, where no config.json is: give a folder that save_pretrained wrote.")
    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True, dtype=torch.float32)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def show(part: Part, options: Options, display, warning: str | None) -> None:
    """One part: every prompt with every decoding, then the table."""
    model, tokenizer = load(part.folder, part.option)
    decodings = list(options.decoding)
    display.heading(f"{part.title} ({Path(part.folder).name})")
    if model.config.block_size is None and (dropped := [name for name in decodings if name in NEED_BLOCKS]):
        decodings = [name for name in decodings if name not in NEED_BLOCKS]
        display.heading(f"Without {', '.join(dropped)}: this checkpoint was not trained with blocks.")
    tallies = {decoding: Tally() for decoding in decodings}
    for number, (prompt, room) in enumerate(zip(part.prompts, part.rooms, strict=True), 1):
        display.heading(f"Text {number} of {len(part.prompts)}")
        inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
        length = inputs["input_ids"].shape[1]
        for decoding, tally in tallies.items():
            if number == 1:  # first calls set things up, which is not to be timed
                generate(model, inputs, decoding, WARM_UP_BYTES, part.temperature, options.seed)
            title = f"{decoding}: {DECODINGS[decoding]}"
            with display.writing(title) as streamer:
                began = time.perf_counter()
                output = generate(model, inputs, decoding, room, part.temperature, options.seed, streamer)
                seconds = time.perf_counter() - began - streamer.seconds
            tally.add(output, length, seconds)
            starts = None
            if options.show_patches:
                starts = model.patch(output.sequences).patch_starts[0, :-1].tolist()
            display.written(title, summarize(output, length), streamer, starts)
    parameters = component_parameters(model)
    rows = table_rows(tallies, parameters, greedy=part.temperature == 0)
    told = notes(tallies, parameters, part.temperature, options.seed)
    display.table(list(tallies), rows, [*([warning] if warning else []), *told])


def generate(model: PreTrainedModel, inputs, decoding: str, room: int, temperature: float, seed: int, streamer=None):
    """Generation of at most `room` bytes by one decoding; from the same seed each time if it samples."""
    sampling = {"do_sample": False}
    if temperature > 0:
        torch.manual_seed(seed)
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0}
    return model.generate(
        **inputs,
        **sampling,
        decoding=decoding,
        max_new_tokens=room,
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


@click.command(cls=Command, help=__doc__)
@click.option(
    "--part",
    type=click.Choice(["restore", "write"]),
    multiple=True,
    help="What to show; may be given twice (default: what --text or --prompt is for, else both).",
)
@click.option(
    "--text",
    multiple=True,
    metavar="LINE",
    help="A damaged line of yours, to restore instead of the built-in ones; may be given several times.",
)
@click.option(
    "--restorer",
    default=str(RESTORER),
    metavar="PATH",
    help="Checkpoint folder for `restore` (default: checkpoints/fblt-restore).",
)
@click.option(
    "--prompt",
    multiple=True,
    metavar="TEXT",
    help="Write on from this text instead of the built-in ones; may be given several times. Four spaces at the start "
    "of a line become a tab, as in the training data.",
)
@click.option(
    "--model",
    default=str(DEMO),
    metavar="PATH",
    help="Checkpoint folder for `write` (default: checkpoints/fblt-demo).",
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
    help="Of sampling in `write`; 0 is greedy, and then verified decodings are compared with ar.",
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
    display = RichDisplay(console) if lively else PlainDisplay()
    recorder = recording_console()
    if options.save_svg:
        display = Several(display, RichDisplay(recorder))
    if warning:
        display.heading(warning)
    for part in options.parts():
        show(part, options, display, warning)
    if options.save_svg:
        recorder.save_svg(options.save_svg, title="make demo")


if __name__ == "__main__":
    main()
