"""Writes on from a text.

    fblt generate checkpoints/fblt-demo "def main():" --max-new-bytes 200 --decoding blt-s

Bytes appear as they are written. Without settings the model's own generation config holds.
"""

import click
import torch
from transformers import TextStreamer

from .commands import Command
from .inputs import MODEL, TEXT, load, read_text


@click.command(cls=Command)
@MODEL
@TEXT
@click.option("--max-new-bytes", type=click.IntRange(min=1), help="Most bytes to write.  [default: as configured]")
@click.option("--decoding", help="ar, blt-s, blt-d or blt-dv.  [default: as configured]")
@click.option("--sample/--greedy", default=None, help="Draw bytes, or take the likeliest.  [default: as configured]")
@click.option("--temperature", type=click.FloatRange(min=0, min_open=True), help="Of drawn bytes.")
@click.option("--top-p", type=click.FloatRange(min=0, min_open=True, max=1), help="Share of likely bytes drawn from.")
@click.option("--seed", type=int, help="Of drawn bytes.")
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
    device: str,
) -> None:
    """Write on from TEXT (standard input by default) with MODEL, a folder or a Hub repository."""
    network, tokenizer = load(model, device)
    if seed is not None:
        torch.manual_seed(seed)
    given = {"max_new_tokens": max_new_bytes, "decoding": decoding, "do_sample": sample}
    given |= {"temperature": temperature, "top_p": top_p}
    inputs = tokenizer(read_text(text), return_tensors="pt").to(network.device)
    streamer = TextStreamer(tokenizer, skip_special_tokens=True)
    network.generate(**inputs, streamer=streamer, **{name: value for name, value in given.items() if value is not None})


if __name__ == "__main__":
    main()
