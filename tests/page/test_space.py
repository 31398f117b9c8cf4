"""The Hub Space: its folder, put together as its README says, serves the page without the repository."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import yaml

from modeling_fblt.tokenization_fblt import build_tokenizer
from tests.docs.blocks import ROOT, blocks
from tests.modeling.tiny import tiny_model

pytest.importorskip("gradio", reason="the extra `page` is not installed")
SPACE = ROOT / "examples" / "space"


def test_the_header_names_what_is_there():
    header = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", (SPACE / "README.md").read_text(), re.DOTALL)[1])
    assert header["sdk"] == "gradio" and (SPACE / header["app_file"]).is_file()
    pinned = f"gradio=={header['sdk_version']}"
    assert pinned in (SPACE / "requirements.txt").read_text() and pinned in (ROOT / "constraints.txt").read_text()


@pytest.mark.slow
def test_the_space_serves_the_page(tmp_path):
    (copied,) = blocks("examples/space/README.md", "sh")
    for line in copied.splitlines():
        command = line.replace(" space", f" {tmp_path}/space").split()
        if "checkpoints/fblt-demo" not in command:
            subprocess.run(command, cwd=ROOT, check=True)
    model = tiny_model(block_size=4)
    model.save_pretrained(tmp_path / "space" / "model")
    build_tokenizer().save_pretrained(tmp_path / "space" / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = inherited | {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=tmp_path / "space", env=environment, stdout=log, stderr=log
        )
        try:
            assert "FBLT: model" in _page(f"http://127.0.0.1:{port}", process), (tmp_path / "log").read_text()
        finally:
            process.kill()
            process.wait()
    shutil.rmtree(tmp_path / "space")


def _page(url: str, process: subprocess.Popen) -> str:
    """What the server answers, once it does; empty if it ends before."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return answer.read().decode()
        except OSError:
            time.sleep(0.5)
    return ""
