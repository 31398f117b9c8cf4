"""What may stand in a request: OpenAI's fields, as far as the model can serve them, and FBLT's own settings."""

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic_core import from_json

from modeling_fblt.generation_config_fblt import DecodingSettings

from .errors import ApiError

MOST_CHOICES = 16  # texts that one request may ask for
# Fields that change no text are taken without effect.
WITHOUT_EFFECT = {"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"}
# What clients send as a default means nothing to be done; anything else is not supported.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "parallel_tool_calls": (True,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tools": ([],),
}

Stop = Annotated[str, Field(min_length=1, max_length=256)]
Count = Annotated[int, Field(ge=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: bool = False  # padding against eavesdroppers; never added


# Every setting of FBLT is a field of its own; None leaves what the model has configured.
Settings: type[_Strict] = create_model(
    "Settings", __base__=_Strict, **{field.name: (field.type | None, None) for field in fields(DecodingSettings)}
)


class WritingRequest(Settings):
    """What both kinds of request share. Fields that are left out are as the model's generation config has them."""

    model: str | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Count | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] = 1
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] = []
    stream: bool = False
    stream_options: StreamOptions | None = None

    @classmethod
    def read(cls, body: bytes) -> "WritingRequest":
        """The request of a JSON body. Nulls, and defaults of fields that are not supported, count as left out.

        Raises:
            ApiError, pydantic.ValidationError: what is wrong with it.
        """
        try:
            given = from_json(body, allow_inf_nan=False)  # which refuses halves of surrogate pairs too
        except ValueError as error:
            raise ApiError(400, f"The body is no JSON: {error}.", code="invalid_json") from error
        if isinstance(given, dict):
            known = cls.model_fields
            given = {
                name: value
                for name, value in given.items()
                if value is not None
                and name not in WITHOUT_EFFECT
                and not (name not in known and value in NEUTRAL.get(name, ()))
            }
        return cls.model_validate(given)

    @property
    def stops(self) -> list[bytes]:
        return [stop.encode() for stop in ([self.stop] if isinstance(self.stop, str) else self.stop)]

    def generation(self) -> dict[str, Any]:
        """Arguments of `generate`, lengths and stops left out. A temperature of 0 is greedy; another one, or `top_p`,
        `top_k` or `min_p`, draws.
        """
        own = {name: getattr(self, name) for name in Settings.model_fields}
        warpers = {name: getattr(self, name) for name in ("temperature", "top_p", "top_k", "min_p")}
        given = {name: value for name, value in (own | warpers).items() if value is not None}
        if self.repetition_penalty is not None:
            given["repetition_penalty"] = self.repetition_penalty
        if self.temperature == 0:
            given["do_sample"] = False
            for name in warpers:
                given.pop(name, None)
        elif any(value is not None for value in warpers.values()):
            given["do_sample"] = True
        return given


class CompletionRequest(WritingRequest):
    """A request to write on from a text, or from each of several."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MOST_CHOICES)]

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class Message(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(WritingRequest):
    """A request for the next turn of a conversation."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
