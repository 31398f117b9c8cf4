"""The web application: OpenAI's routes, their limits, and their answers, whole or streamed."""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from transformers import PreTrainedTokenizerBase

from modeling_fblt import FBLTForCausalLM
from modeling_fblt.configuration_fblt import BYTE_OFFSET
from modeling_fblt.generation_config_fblt import DecodingSettings
from modeling_fblt.tokenization_fblt import END_OF_TURN

from .errors import ApiError, invalid
from .requests import MOST_CHOICES, ChatRequest, CompletionRequest, WritingRequest
from .writer import Job, Writer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What one client may ask of a server.

    Attributes:
        requests: texts that are being written or wait.
        bytes: of a text, prompt and new bytes together.
        body: bytes of a request's body.
        seconds: from a request's arrival to the end of its text.
    """

    requests: int = 64
    bytes: int = 16384
    body: int = 1 << 20
    seconds: float = 300.0


@dataclass
class Kind:
    """What tells completions from chat completions in an answer."""

    request: type[WritingRequest]
    prefix: str
    whole: str
    piece: str

    def choice(self, index: int, text: str, reason: str) -> dict[str, Any]:
        said = {"text": text} if self.prefix == "cmpl" else {"message": {"role": "assistant", "content": text}}
        return {"index": index, **said, "logprobs": None, "finish_reason": reason}

    def delta(self, index: int, text: str | None, reason: str | None, first: bool) -> dict[str, Any]:
        if self.prefix == "cmpl":
            said = {"text": text or ""}
        else:
            role = {"role": "assistant"} if first else {}
            said = {"delta": role | ({} if text is None else {"content": text})}
        return {"index": index, **said, "logprobs": None, "finish_reason": reason}


COMPLETION = Kind(CompletionRequest, "cmpl", "text_completion", "text_completion")
CHAT = Kind(ChatRequest, "chatcmpl", "chat.completion", "chat.completion.chunk")


class Service:
    """Makes jobs of requests, and answers of what the writer makes of them.

    Args:
        name: what clients call the model.
    """

    def __init__(self, model: FBLTForCausalLM, tokenizer: PreTrainedTokenizerBase, name: str, limits: Limits):
        self.model, self.tokenizer, self.name, self.limits = model, tokenizer, name, limits
        self.writer = Writer(model, tokenizer, limits.requests)
        self.created = int(time.time())

    async def serve(self, request: Request, kind: Kind) -> Response:
        arrived = time.monotonic()
        body = await self._body(request)
        asked = kind.request.read(body)
        if asked.model not in (None, self.name):
            raise ApiError(
                404, f"`model` is {asked.model!r}: this server has {self.name!r}.", "model", "model_not_found"
            )
        jobs = self._jobs(asked, arrived + self.limits.seconds)
        self.writer.submit(jobs)
        head = {"id": f"{kind.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": self.name}
        if asked.stream:
            events = self._stream(asked, kind, head, jobs)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        return JSONResponse(await self._whole(request, kind, head, jobs))

    async def _body(self, request: Request) -> bytes:
        """The body of a request, no longer than it may be, and not in a form that web pages may send unasked."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise ApiError(415, "Content-Type is not application/json: send the request as JSON.", code="content_type")
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.seconds):
                async for part in request.stream():
                    body += part
                    if len(body) > self.limits.body:
                        message = f"The body has more than {self.limits.body} bytes, the most that this server takes."
                        raise ApiError(413, message, code="body_too_large")
        except TimeoutError:
            raise ApiError(408, "The body did not arrive in time.", code="timeout") from None
        return bytes(body)

    def _jobs(self, asked: WritingRequest, deadline: float) -> list[Job]:
        """The texts that a request asks for: `n` for each of its prompts."""
        settings = asked.generation()
        new = asked.max_tokens
        if isinstance(asked, ChatRequest):
            prompts, param = [self._conversation(asked)], "messages"
            new = asked.max_completion_tokens or new
            # What ends a turn where the model was tuned to conversations; others hardly ever write that byte.
            eos = self.model.generation_config.eos_token_id
            settings["eos_token_id"] = [*(eos if isinstance(eos, list) else [eos]), END_OF_TURN + BYTE_OFFSET]
        else:
            prompts, param = asked.prompts, "prompt"
        if len(prompts) * asked.n > MOST_CHOICES:
            message = f"`n` is {asked.n} for {len(prompts)} prompts: ask for {MOST_CHOICES} texts at most in all."
            raise ApiError(400, message, "n", "invalid_value")
        self._check(settings)
        rows = [self.tokenizer(prompt, split_special_tokens=True).input_ids for prompt in prompts]
        jobs = []
        for row in rows:
            room = self.limits.bytes - len(row)
            wanted = new or min(self.model.generation_config.max_new_tokens or room, room)
            if wanted > room or room < 1:
                message = (
                    f"The prompt has {len(row)} bytes and {new or 1} are to be written: this server allows "
                    f"{self.limits.bytes} in all. Shorten the prompt or lower `max_tokens`."
                )
                raise ApiError(400, message, param, "context_length_exceeded")
            for _ in range(asked.n):
                seed = None if asked.seed is None else asked.seed + len(jobs)
                loop = asyncio.get_running_loop()
                jobs.append(Job(row, wanted, asked.stops, settings, seed, deadline, loop))
        return jobs

    def _conversation(self, asked: ChatRequest) -> str:
        """The text of a conversation, without the `<s>` in front."""
        if self.tokenizer.chat_template is None:
            message = "This model's tokenizer has no chat template: use completions, or save it with a template."
            raise ApiError(400, message, "messages", "no_chat_template")
        messages = [message.plain() for message in asked.messages]
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return text.removeprefix(self.tokenizer.bos_token)

    def _check(self, settings: dict[str, Any]) -> None:
        """Refuses settings that the model cannot serve before anything is in line, or streamed."""
        config = self.model.generation_config.__class__.from_dict(self.model.generation_config.to_dict())
        config.update(**settings)
        try:
            DecodingSettings.of(config, self.model.config)
        except (ValueError, TypeError) as error:
            param = str(error).split("`")[1] if "`" in str(error) else None
            raise ApiError(400, str(error), param, "invalid_value") from error

    async def _whole(self, request: Request, kind: Kind, head: dict, jobs: list[Job]) -> dict[str, Any]:
        choices, new = [], 0
        watch = asyncio.create_task(cancel_when_gone(request, jobs))
        try:
            for index, job in enumerate(jobs):
                texts = []
                while isinstance(piece := await job.pieces.get(), str):
                    texts.append(piece)
                if isinstance(piece, ApiError):
                    raise piece
                choices.append(kind.choice(index, "".join(texts), piece.reason))
                new += piece.new
        finally:
            watch.cancel()
            cancel(jobs)
        return {**head, "object": kind.whole, "choices": choices, "usage": usage(jobs, new)}

    async def _stream(self, asked: WritingRequest, kind: Kind, head: dict, jobs: list[Job]) -> AsyncIterator[str]:
        """Server-sent events: a chunk per piece, one with the reason at a text's end, `[DONE]`. The server cancels this
        when its client goes away.
        """
        shared = {**head, "object": kind.piece}
        counts = asked.stream_options is not None and asked.stream_options.include_usage
        if counts:
            shared["usage"] = None
        new = 0
        try:
            for index, job in enumerate(jobs):
                first = True
                while True:
                    piece = await job.pieces.get()
                    if isinstance(piece, ApiError):
                        yield event(piece.body)
                        return
                    text, reason = (piece, None) if isinstance(piece, str) else (None, piece.reason)
                    yield event({**shared, "choices": [kind.delta(index, text, reason, first)]})
                    first = False
                    if reason is not None:
                        new += piece.new
                        break
            if counts:
                yield event({**shared, "choices": [], "usage": usage(jobs, new)})
            yield "data: [DONE]\n\n"
        finally:
            cancel(jobs)


def usage(jobs: list[Job], new: int) -> dict[str, int]:
    """Ids read and written; ids are bytes, but for `<s>` and `</s>`."""
    prompts = {id(job.ids): len(job.ids) for job in jobs}  # several texts may share one
    read = sum(prompts.values())
    return {"prompt_tokens": read, "completion_tokens": new, "total_tokens": read + new}


def cancel(jobs: list[Job]) -> None:
    for job in jobs:
        job.cancelled.set()


async def cancel_when_gone(request: Request, jobs: list[Job]) -> None:
    """Waits until the client has gone, and cancels what was written for it."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    cancel(jobs)


def event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def build_app(
    model: FBLTForCausalLM, tokenizer: PreTrainedTokenizerBase, name: str, limits: Limits | None = None
) -> FastAPI:
    """The application that serves a model.

    Args:
        name: what clients call the model.
        limits: what one client may ask; see [`Limits`].
    """
    service = Service(model, tokenizer, name, limits or Limits())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.writer.close()

    app = FastAPI(title="fblt serve", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    card = {"id": name, "object": "model", "created": service.created, "owned_by": "fblt"}

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await service.serve(request, COMPLETION)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await service.serve(request, CHAT)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{wanted:path}")
    async def the_model(wanted: str) -> dict[str, Any]:
        if wanted != name:
            raise ApiError(404, f"There is no model {wanted!r}: this server has {name!r}.", "model", "model_not_found")
        return card

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(ValidationError)
    async def malformed(request: Request, error: ValidationError) -> Response:
        return invalid(error).response()

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        return ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}.").response()

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return ApiError(500, "The server failed; its log says why.", kind="server_error").response()

    return app
