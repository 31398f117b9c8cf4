"""Serves a model over HTTP, with OpenAI's completions and chat completions.

    fblt serve checkpoints/fblt-demo --port 8000

docs/serving.md shows clients, and lists the fields of requests and the limits.
"""

import socket
from contextlib import suppress
from pathlib import Path

import click
import uvicorn

from ..commands import Command
from ..inputs import MODEL, load
from .app import Limits, build_app

POSITIVE = click.IntRange(min=1)


@click.command(cls=Command)
@MODEL
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen at; by default, this machine alone."
)
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 for any free one."
)
@click.option("--name", help="What clients call the model.  [default: its folder's name, or its repository]")
@click.option("--device", default="cpu", show_default=True, help="Where to run: cpu, cuda, mps.")
@click.option("--max-requests", default=Limits.requests, show_default=True, type=POSITIVE, help="Texts in line.")
@click.option(
    "--max-bytes", default=Limits.bytes, show_default=True, type=POSITIVE, help="Prompt and new bytes of a text."
)
@click.option("--max-body", default=Limits.body, show_default=True, type=POSITIVE, help="Bytes of a request's body.")
@click.option(
    "--max-seconds",
    default=Limits.seconds,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="From a request's arrival to the end of its text.",
)
def main(
    model: str,
    host: str,
    port: int,
    name: str | None,
    device: str,
    max_requests: int,
    max_bytes: int,
    max_body: int,
    max_seconds: float,
) -> None:
    """Serve MODEL, a folder or a Hub repository, to OpenAI's clients."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Before the model is loaded: a port that is taken is told at once.
    with socket.create_server((host, port), family=family) as listening:
        network, tokenizer = load(model, device)
        name = name or (Path(model).resolve().name if Path(model).is_dir() else model)
        limits = Limits(max_requests, max_bytes, max_body, max_seconds)
        app = build_app(network, tokenizer, name, limits)
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"Serving {name} at http://{shown}:{listening.getsockname()[1]}/v1 (Ctrl-C ends it)")
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3))
        with suppress(KeyboardInterrupt):  # which uvicorn raises once it has ended by itself
            server.run(sockets=[listening])


if __name__ == "__main__":
    main()
