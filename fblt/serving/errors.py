"""Refusals as OpenAI's clients expect them: a status, and JSON that says what is wrong with which field."""

from fastapi.responses import JSONResponse
from pydantic import ValidationError


class ApiError(Exception):
    """A request that is not served.

    Args:
        status: of HTTP.
        message: for whoever sent the request: field, value and remedy.
        param: the field at fault, if it is one.
        code: a word that programs can tell errors apart by.
        kind: `"invalid_request_error"`, or `"server_error"` where the request is not at fault.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
    ):
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def response(self) -> JSONResponse:
        """The answer; clients that are told to come back later are told when."""
        headers = {"Retry-After": "1"} if self.status in (429, 503) else None
        return JSONResponse(self.body, self.status, headers=headers)


def invalid(error: ValidationError) -> ApiError:
    """The first thing that a request's schema finds wrong."""
    first = error.errors(include_url=False)[0]
    # A field of several types is told with the type that was tried; clients know the field alone.
    param = str(first["loc"][0]) if first["loc"] else None
    if first["type"] == "extra_forbidden":
        message = f"`{param}` is not supported: leave it out. docs/serving.md lists the fields."
        return ApiError(400, message, param, "unsupported_field")
    where = "The body" if param is None else f"`{'.'.join(map(str, first['loc']))}`"
    return ApiError(400, f"{where} is {_shown(first['input'])}: {first['msg']}.", param, "invalid_value")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
