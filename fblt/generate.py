"""Writes on from a text, or from many.

    fblt generate checkpoints/fblt-demo "def main():" --max-new-bytes 200 --decoding blt-s
    fblt generate checkpoints/fblt-demo --prompts prompts.txt --output completions.jsonl

Bytes appear as they are written. Without settings the model's own generation config holds. Many prompts are written on
from in batches, and a command that was killed goes on where it stopped.
"""

import hashlib
import json
from pathlib import Path

import click
import torch
from transformers import TextStreamer

from .batches import weights_digest, written_result
from .commands import Command
from .inputs import MODEL, TEXT, load, read_text
from .prompts import continue_prompts, read_prompts


@click.command(cls=Command)
@MODEL
@TEXT
@click.option("--max-new-bytes", type=click.IntRange(min=1), help="Most bytes to write.  [default: as configured]")
@click.option("--decoding", help="ar, blt-s, blt-d or blt-dv.  [default: as configured]")
@click.option("--sample/--greedy", default=None, help="Draw bytes, or take the likeliest.  [default: as configured]")
@click.option("--temperature", type=click.FloatRange(min=0, min_open=True), help="Of drawn bytes.")
@click.option("--top-p", type=click.FloatRange(min=0, min_open=True, max=1), help="Share of likely bytes drawn from.")
@click.option("--seed", type=int, help="Of drawn bytes.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help='File of prompts instead of TEXT: one a line, or .jsonl with a key "prompt".',
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSONL to write for --prompts.  [default: standard output]",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Prompts at a time.")
@click.option("--device", default="cpu", show_default=True, help="Where to run: cpu, cuda, mps.")
def main(
    model: str,
    text: str,
    max_new_bytes: int | None,
    decoding: str | None,
    sample: bool | None,
    temperature: float | None,
    top_p: float | None,
    seed: int | None,
    prompts: Path | None,
    output: Path | None,
    batch_size: int,
    device: str,
) -> None:
    """Write on from TEXT (standard input by default) with MODEL, a folder or a Hub repository.

    With --prompts, write on from each prompt of a file; the lines of JSON hold the prompt, its other keys if it came
    with some, completion and finish_reason.
    """
    if prompts is None and output is not None:
        raise ValueError(f"--output {output}: belongs to --prompts; redirect standard output instead")
    if prompts is not None and text != "-":
        raise ValueError(f"--prompts {prompts}: stands beside TEXT {text!r}; give one of them")
    entries = None if prompts is None else read_prompts(prompts)
    network, tokenizer = load(model, device)
    given = {"max_new_tokens": max_new_bytes, "decoding": decoding, "do_sample": sample}
    given |= {"temperature": temperature, "top_p": top_p}
    given = {name: value for name, value in given.items() if value is not None}
    if entries is not None:
        run = {
            "--prompts": hashlib.sha256(prompts.read_bytes()).hexdigest(),
            "MODEL": weights_digest(network),
            "--device": str(network.device),
            "--batch-size": batch_size,
            "--seed": seed,
            **given,
        }
        with written_result(output, run) as (journal, file):
            texts = [entry["prompt"] for entry in entries]
            completions = continue_prompts(network, texts, batch_size, given, seed, journal, "writing")
            for entry, completion in zip(entries, completions, strict=True):
                file.write(json.dumps({**entry, **completion}, ensure_ascii=False).encode() + b"\n")
        return
    if seed is not None:
        torch.manual_seed(seed)
    inputs = tokenizer(read_text(text), return_tensors="pt").to(network.device)
    streamer = TextStreamer(tokenizer, skip_special_tokens=True)
    network.generate(**inputs, streamer=streamer, **given)


if __name__ == "__main__":
    main()
