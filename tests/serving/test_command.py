"""`fblt serve` as a shell runs it: what docs/serving.md shows is executed against it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import openai
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from fblt.serving.app import Limits
from fblt.serving.command import main
from fblt.serving.requests import NEUTRAL, WITHOUT_EFFECT, ChatRequest, CompletionRequest
from tests.cli import refusal

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "checkpoints" / "fblt-demo"
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def address():
    command = [sys.executable, "-m", "fblt", "serve", CHECKPOINT, "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        told = process.stdout.readline()
        yield re.search(r"http://127\.0\.0\.1:\d+/v1", told).group()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert "Serving fblt-demo" in told


@pytest.mark.checkpoint
def test_the_documented_client(address, capsys):
    """The code of the page runs, and its greedy text is what `generate` writes."""
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL).group(1)
    assert "http://localhost:8000/v1" in code
    found = {}
    exec(code.replace("http://localhost:8000/v1", address), found)  # the page is ours
    model, tokenizer = (
        kind.from_pretrained(CHECKPOINT, trust_remote_code=True) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    ids = tokenizer(found["PROMPT"], return_tensors="pt")
    written = model.generate(**ids, max_new_tokens=60, do_sample=False, decoding="blt-dv")
    text = tokenizer.decode(written[0, ids.input_ids.shape[1] :], skip_special_tokens=True)
    assert text and found["completion"].choices[0].text == text and text in capsys.readouterr().out


@pytest.mark.checkpoint
def test_a_refusal_over_http(address):
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError, match="block_size"):
        client.completions.create(model="fblt-demo", prompt="a", extra_body={"block_size": 99})


def test_the_page_lists_every_field_and_every_limit():
    wanted = {*CompletionRequest.model_fields, *ChatRequest.model_fields, *NEUTRAL, *WITHOUT_EFFECT}
    assert not [name for name in wanted if f"`{name}`" not in PAGE]
    for name, value in vars(Limits()).items():
        assert re.search(rf"`--max-{name}` \| {int(value)}", PAGE), name


def test_a_port_that_is_taken_and_a_folder_without_a_model_are_refused(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "in use" in refusal(main, CHECKPOINT, "--port", taken.getsockname()[1])
    assert refusal(main, tmp_path, "--port", 0)
