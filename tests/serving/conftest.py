"""A server on loopback, and the real `openai` client that talks to it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import openai
import pytest
import torch
import uvicorn

from fblt.serving.app import Limits, build_app
from modeling_fblt.tokenization_fblt import build_tokenizer
from tests.modeling.tiny import tiny_model

NAME = "tiny"


@contextmanager
def serving(model, tokenizer, limits: Limits | None = None) -> Iterator[str]:
    """Serves a model on a free port; the address."""
    app = build_app(model, tokenizer, NAME, limits)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


def client_of(address: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def model():
    return tiny_model(seed=3, dtype=torch.float64).requires_grad_(False)


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="session")
def address(model, tokenizer) -> Iterator[str]:
    with serving(model, tokenizer) as found:
        yield found


@pytest.fixture(scope="session")
def client(address) -> Iterator[openai.OpenAI]:
    with client_of(address) as found:
        yield found


@pytest.fixture(scope="session")
def expected(model, tokenizer):
    """What `generate` writes: a function of a prompt and settings."""

    def write(prompt: str, new: int, seed: int | None = None, **settings) -> str:
        if seed is not None:
            torch.manual_seed(seed)
        ids = tokenizer(prompt, split_special_tokens=True, return_tensors="pt")
        sequences = model.generate(**ids, max_new_tokens=new, **settings)
        return tokenizer.decode(sequences[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)

    return write
