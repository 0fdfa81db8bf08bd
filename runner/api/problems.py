"""Errors over HTTP, as in RFC 9457: one place turns each into a status and a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from runner.errors import (
    BadJobError,
    BusyError,
    LeaseError,
    RequestReusedError,
    RunnerError,
    StateBusyError,
    StateError,
    StoppingError,
    WrongModeError,
)
from runner.logs import Action, Events
from sandbox.settings.complaints import demand

_events = Events(__name__)

_STATUS: Final = {
    BadJobError: HTTPStatus.UNPROCESSABLE_ENTITY,
    BusyError: HTTPStatus.TOO_MANY_REQUESTS,
    LeaseError: HTTPStatus.SERVICE_UNAVAILABLE,
    StoppingError: HTTPStatus.SERVICE_UNAVAILABLE,
    RequestReusedError: HTTPStatus.CONFLICT,
    WrongModeError: HTTPStatus.CONFLICT,
    StateError: HTTPStatus.INSUFFICIENT_STORAGE,
    StateBusyError: HTTPStatus.SERVICE_UNAVAILABLE,
}
"""The status of each error, which also holds for its subclasses that are not listed."""

_DEFECT: Final = "The runner met an error of its own. Please report it with the runner's log, which has more of it."


class Problem(BaseModel):
    """An error, as in RFC 9457: what went wrong, and the cause and next step as a sentence."""

    title: str
    status: int
    detail: str
    reasons: list[str] = []
    """Why `/ready` says no, by names that do not change."""


PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    code: {"model": Problem, "description": "A problem, as application/problem+json."} for code in ("4XX", 422, "5XX")
}
"""The errors in the description of the API."""


class ApiError(Exception):
    """A request that cannot be answered: the status, and a sentence with cause and next step."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        headers: Mapping[str, str] | None = None,
        reasons: Sequence[str] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers
        self.reasons = reasons


def add_problems(app: FastAPI) -> None:
    """Answer every error of an application with a problem."""

    @app.exception_handler(ApiError)
    async def api_error(_request: Request, error: ApiError) -> Response:
        return _problem(error.status, str(error), error.headers, error.reasons)

    @app.exception_handler(RunnerError)
    async def runner_error(_request: Request, error: RunnerError) -> Response:
        status = _status(error)
        if status == HTTPStatus.INTERNAL_SERVER_ERROR:
            _events.error(Action.DEFECT, "a defect in the runner", error=error)
        return _problem(status, str(error))

    @app.exception_handler(RequestValidationError)
    async def bad_parameter(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{where}: {demand(first['msg'])}.")

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> Response:
        return _problem(HTTPStatus(error.status_code), f"{error.detail}. The API is described at /openapi.json.")

    @app.exception_handler(Exception)
    async def defect(_request: Request, _error: Exception) -> Response:
        """Answer any other error. Starlette raises it again after the answer, and the server logs it."""
        return _problem(HTTPStatus.INTERNAL_SERVER_ERROR, _DEFECT)


def _status(error: RunnerError) -> HTTPStatus:
    known = (_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    return next(known, HTTPStatus.INTERNAL_SERVER_ERROR)


def _problem(
    status: HTTPStatus, detail: str, headers: Mapping[str, str] | None = None, reasons: Sequence[str] = ()
) -> JSONResponse:
    problem = Problem(title=status.phrase, status=status, detail=detail, reasons=list(reasons))
    content = problem.model_dump(exclude_defaults=True)
    return JSONResponse(content, status, headers, media_type="application/problem+json")
