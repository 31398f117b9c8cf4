# Copyright 2026 The FBLT team. Licensed under the Apache License, Version 2.0.
"""Takes the pictures of the page that the documentation shows, in a real Chromium: to be looked at.

python -m tests.page.screenshots --threads 2
"""

from pathlib import Path

import click
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer

from fblt.page.app import build_app
from tests.page.browser import ended, opened

WINDOWS = {
    "desktop": ("light", (1180, 900)),
    "desktop-dark": ("dark", (1180, 900)),
    "phone": ("light", (390, 844)),
    "phone-dark": ("dark", (390, 844)),
}
DECODING = "blt-dv"
COLOURS = 128  # of a picture: a third of its size, and none is missed


@click.command(help=__doc__)
@click.option("--model", "folder", default="checkpoints/fblt-demo", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("docs/images"), show_default=True)
@click.option("--window", "windows", multiple=True, type=click.Choice(list(WINDOWS)), help="By default all.")
@click.option("--threads", default=2, show_default=True)
def main(folder: str, output: Path, windows: tuple[str, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
    output.mkdir(parents=True, exist_ok=True)
    for name in windows or WINDOWS:
        scheme, size = WINDOWS[name]
        with opened(build_app(model, tokenizer, Path(folder).name), scheme, size) as page:
            page.get_by_label(f"{DECODING}:").check()
            page.locator("#write").click()
            ended(page, DECODING)
            page.mouse.move(0, 0)
            page.wait_for_timeout(500)
            picture = output / f"page-{name}.png"
            page.screenshot(path=picture, full_page=True)
        Image.open(picture).convert("RGB").quantize(COLOURS).save(picture, optimize=True)
        click.echo(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
