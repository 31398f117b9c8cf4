"""The page in a real Chromium."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr
from playwright.sync_api import Page, sync_playwright

from fblt.page.app import CSS, HEAD, THEME

CHROMIUM = shutil.which("chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


@contextmanager
def opened(app: gr.Blocks, scheme: str, size: tuple[int, int]) -> Iterator[Page]:
    """The page of an app on a free port, in a window of `size` that prefers a colour `scheme`, "light" or "dark"."""
    _, url, _ = app.launch(
        server_name="127.0.0.1", theme=THEME, css=CSS, head=HEAD, ssr_mode=False, prevent_thread_lock=True, quiet=True
    )
    try:
        with sync_playwright() as player:
            browser = player.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
            sized = {"width": size[0], "height": size[1]}
            page = browser.new_context(viewport=sized, color_scheme=scheme).new_page()
            page.set_default_timeout(120_000)
            page.goto(url, wait_until="domcontentloaded")
            yield page
            browser.close()
    finally:
        app.close()


def ended(page: Page, decoding: str) -> None:
    """Waits until both texts, their counters and the patches are there."""
    page.locator("#counters", has_text=f"{decoding}ar").get_by_text("rounds").first.wait_for()
    page.locator("#patches .patch").first.wait_for()
