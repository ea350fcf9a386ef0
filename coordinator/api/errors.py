"""What a client of the API is told when something is refused: a stable word and a sentence, as JSON."""

from __future__ import annotations

from email.utils import formatdate

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException


class ApiError(Exception):
    """A refusal with its HTTP status. `error` is a stable word (see `docs/spec/device-api.md`)."""

    def __init__(
        self, status: int, error: str, message: str, *, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self.message = message
        self.headers = headers or {}


def clock_error(message: str, now: float) -> ApiError:
    """401 `clock`, with the server's time in `Date` so that the device can sign again with an offset."""
    return ApiError(401, "clock", message, headers={"Date": formatdate(now, usegmt=True)})


WORDS = {404: "not-found", 405: "method", 413: "too-large", 422: "bad-request"}


async def http_error_response(_request: Request, error: Exception) -> JSONResponse:
    """The same form for what the framework itself refuses (no such path, wrong method)."""
    assert isinstance(error, HTTPException)
    body = {"error": WORDS.get(error.status_code, "refused"), "message": str(error.detail)}
    return JSONResponse(body, error.status_code, error.headers)


async def api_error_response(_request: Request, error: Exception) -> JSONResponse:
    """The handler that FastAPI calls for `ApiError`."""
    assert isinstance(error, ApiError)
    body = {"error": error.error, "message": error.message}
    return JSONResponse(body, error.status, error.headers)
