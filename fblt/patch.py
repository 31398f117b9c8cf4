"""Shows where a model starts patches in a text.

    fblt patch checkpoints/fblt-demo "She had been expecting her sister"

A line of the output is a patch: its length in bytes, the entropy of the patcher before its first byte, in nats, and the
text. Where the model patches without entropies, `-` stands for them. Bytes that are no text of their own, such as half
a character, are shown as `\\xe4`; newlines and tabs are shown as `\\n` and `\\t`.
"""

import click
import torch

from modeling_fblt.configuration_fblt import BOS_ID, BYTE_OFFSET

from .commands import Command
from .inputs import MODEL, TEXT, load, read_text


@click.command(cls=Command)
@MODEL
@TEXT
@click.option("--device", default="cpu", show_default=True, help="Where to run: cpu, cuda, mps.")
def main(model: str, text: str, device: str) -> None:
    """Show the patches of TEXT (standard input by default) that MODEL, a folder or a Hub repository, makes."""
    network, _ = load(model, device)
    content = read_text(text).encode()
    ids = torch.tensor([[BOS_ID, *(byte + BYTE_OFFSET for byte in content)]], device=network.device)
    with torch.no_grad():
        found = network.patch(ids)
    # A patch that `<s>` starts is shown from the first byte of the text.
    starts = sorted({max(position - 1, 0) for position in found.patch_starts[0, :-1].nonzero().flatten().tolist()})
    entropies = None if found.entropies is None else found.entropies[0].tolist()  # [i]: after i bytes of the text
    for start, end in zip(starts, [*starts[1:], len(content)], strict=True):
        entropy = "-" if entropies is None else f"{entropies[start]:.2f}"
        shown = content[start:end].decode(errors="backslashreplace").replace("\n", "\\n").replace("\t", "\\t")
        click.echo(f"{end - start:>4}  {entropy:>5}  {shown}")
    click.echo(f"{len(content)} bytes in {len(starts)} patches, {len(content) / len(starts):.2f} bytes each")


if __name__ == "__main__":
    main()
