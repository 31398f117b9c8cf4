"""Bad requests, limits, and clients that go away: errors in OpenAI's form, and a server that goes on."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import openai
import pytest

from fblt.serving.app import Limits
from tests.serving.conftest import NAME, client_of, serving

LONG = {"prompt": "long", "max_tokens": 6000, "temperature": 0, "extra_body": {"decoding": "ar"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 17}, "n"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 9, "n": 2}, "n"),
        ({"stop": ""}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"seed": 2**64}, "seed"),
        ({"logprobs": 3}, "logprobs"),
        ({"suffix": "end"}, "suffix"),
        ({"extra_body": {"decoding": "fast"}}, "decoding"),
        ({"extra_body": {"decoding": 3}}, "decoding"),
        ({"extra_body": {"block_size": 99}}, "block_size"),
        ({"extra_body": {"draft_length": 0, "decoding": "blt-s"}}, "draft_length"),
        ({"extra_body": {"no_such_field": 1}}, "no_such_field"),
        ({"max_tokens": 20000}, "prompt"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_is_told_which_field(client, fields, param, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": NAME, "prompt": "a", "max_tokens": 4, "stream": stream, **fields})
    assert caught.value.body["param"] == param
    assert caught.value.body["type"] == "invalid_request_error" and param in caught.value.body["message"]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "robot", "content": "a"}],
        [{"role": "user"}],
        [{"role": "user", "content": [{"type": "image_url"}]}],
    ],
)
def test_bad_messages(client, messages):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=NAME, messages=messages)
    assert caught.value.body["param"] == "messages"


def test_fields_without_effect_and_defaults_are_taken(client, expected):
    fields = {"user": "me", "presence_penalty": 0, "frequency_penalty": 0.0, "best_of": 1, "echo": False, "seed": None}
    told = client.completions.create(model=NAME, prompt="a", max_tokens=6, temperature=0, **fields)
    assert told.choices[0].text == expected("a", 6, do_sample=False)


def test_another_model_is_not_there(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt", prompt="a")
    assert caught.value.body["code"] == "model_not_found"


def refused(address: str, path: str, body: bytes | None, content_type: str = "application/json") -> int:
    """The status of a request that a client of its own sends; the body must be an error in OpenAI's form."""
    request = Request(address + path, data=body, headers={"Content-Type": content_type})
    with pytest.raises(HTTPError) as caught:
        urlopen(request, timeout=60)
    content = caught.value.read().decode()
    assert '{"error":{"message":' in content, content
    return caught.value.code


@pytest.mark.parametrize(
    ("path", "body", "content_type", "status"),
    [
        ("/v1/completions", b"{", "application/json", 400),
        ("/v1/completions", b"", "application/json", 400),
        ("/v1/completions", b'{"prompt": "\xff"}', "application/json", 400),
        ("/v1/completions", b'{"prompt": "\\ud800"}', "application/json", 400),
        ("/v1/completions", b'{"prompt": "a", "temperature": NaN}', "application/json", 400),
        ("/v1/completions", b"[1, 2]", "application/json", 400),
        ("/v1/completions", b"[" * 100_000, "application/json", 400),
        ("/v1/completions", b'{"prompt": "a"}', "text/plain", 415),
        ("/v1/completions", b" " * ((1 << 20) + 1), "application/json", 413),
        ("/v1/completions", None, "application/json", 405),
        ("/v1/nothing", b"{}", "application/json", 404),
        ("/v1/models/other", None, "application/json", 404),
    ],
)
def test_what_is_no_request_is_refused_in_json(address, path, body, content_type, status):
    assert refused(address, path, body, content_type) == status


def test_streams_that_are_left_are_written_no_further(model, tokenizer, expected):
    """Long texts, left after a piece, before they begin, or by a client that does not stream."""
    rounds = []
    hook = model.model.patcher.register_forward_hook(lambda *call: rounds.append(1))
    with serving(model, tokenizer, Limits(requests=4)) as address, client_of(address) as client:
        for _ in range(3):
            with client.completions.create(model=NAME, stream=True, **LONG) as stream:
                assert next(iter(stream)).choices[0].text
        with client.completions.create(model=NAME, stream=True, **LONG) as first:
            next(iter(first))
            with client.completions.create(model=NAME, stream=True, **LONG):  # waits in line
                pass
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.5).completions.create(model=NAME, **LONG)
        told = client.completions.create(model=NAME, prompt="a", max_tokens=6, temperature=0)
        assert told.choices[0].text == expected("a", 6, do_sample=False)
    hook.remove()
    assert len(rounds) < LONG["max_tokens"]  # not one of the six was written to its end


def test_too_many_texts_are_told_to_come_back(model, tokenizer):
    with serving(model, tokenizer, Limits(requests=2)) as address, client_of(address) as client:
        with client.completions.create(model=NAME, stream=True, **LONG) as stream:
            next(iter(stream))
            with pytest.raises(openai.RateLimitError) as caught:
                client.completions.create(model=NAME, prompt="a", n=2)
            assert caught.value.body["code"] == "too_many_requests"
            assert caught.value.response.headers["Retry-After"]


def test_time_runs_out(model, tokenizer):
    """A text that is being written ends where it is; one that waited in vain is an error, also in a stream."""
    with serving(model, tokenizer, Limits(seconds=1.0)) as address, client_of(address) as client:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.completions.create, model=NAME, **LONG)
            time.sleep(0.2)
            # The first of these waits for the text before; its successors have no time left.
            with pytest.raises(openai.APIError) as caught:
                list(client.completions.create(model=NAME, stream=True, n=3, **LONG))
            assert caught.value.body["code"] == "timeout"
        choice = first.result().choices[0]
        assert choice.finish_reason == "length" and 0 < first.result().usage.completion_tokens < 6000


def test_a_body_that_never_ends_is_not_waited_for(model, tokenizer):
    with serving(model, tokenizer, Limits(seconds=0.5)) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            head = ("POST /v1/completions HTTP/1.1", "Host: a", "Content-Type: application/json", "Content-Length: 9")
            connection.sendall("\r\n".join((*head, "", "{")).encode())
            assert b" 408 " in connection.recv(4096)


def test_a_failure_is_told_without_its_inside(model, tokenizer, client, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("secret")

    monkeypatch.setattr(model, "generate", fail)
    with pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model=NAME, prompt="a")
    assert "secret" not in str(caught.value) and caught.value.body["type"] == "server_error"
    with pytest.raises(openai.APIError, match="log"):
        list(client.completions.create(model=NAME, prompt="a", stream=True))
    monkeypatch.undo()
    assert client.completions.create(model=NAME, prompt="a", max_tokens=2).usage.completion_tokens == 2


def test_without_a_chat_template(model):
    from modeling_fblt.tokenization_fblt import build_tokenizer

    plain = build_tokenizer()
    plain.chat_template = None
    with serving(model, plain) as address, client_of(address) as client:
        with pytest.raises(openai.BadRequestError, match="chat template"):
            client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "a"}])
