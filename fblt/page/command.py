"""A page on which a model writes, for a browser.

    fblt page checkpoints/fblt-demo

It shows drafts as they appear and are taken back, what that saves beside plain decoding, and where patches start.
"""

from pathlib import Path

import click
import torch

from ..commands import Command
from ..inputs import MODEL, load
from .app import CSS, HEAD, THEME, build_app


@click.command(cls=Command)
@MODEL
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port.  [default: the first free one from 7860]")
@click.option("--browser", is_flag=True, help="Open it in a browser.")
@click.option("--device", default="cpu", show_default=True, help="Where to run: cpu, cuda, mps.")
def main(model: str, host: str, port: int | None, browser: bool, device: str) -> None:
    """Show a page on which MODEL, a folder or a Hub repository, writes."""
    serve(model, host=host, port=port, browser=browser, device=device)


def serve(model: str, host: str, port: int | None = None, browser: bool = False, device: str = "cpu") -> None:
    """Loads a model and serves its page until it is interrupted."""
    # Near-ties then decide alike in every decoding.
    network, tokenizer = load(model, device, torch.float32 if device == "cpu" else "auto")
    app = build_app(network, tokenizer, Path(model).resolve().name)
    app.launch(server_name=host, server_port=port, inbrowser=browser, theme=THEME, css=CSS, head=HEAD, ssr_mode=False)


if __name__ == "__main__":
    main()
