"""The HTTP API, version 1: submit a job, follow its log, learn its outcome, cancel it."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from runner.api.models import JobRequest, JobView, Problem
from runner.api.token import Token
from runner.errors import BadJobError, BusyError, DrainingError, RunnerError
from runner.service.record import Record
from runner.service.service import Service

#: Largest request body in bytes: a script of the largest size, with JSON's escapes.
MAX_BODY: Final = 160 * 1024 * 1024
_STATUS: Final = {
    BadJobError: HTTPStatus.UNPROCESSABLE_ENTITY,
    BusyError: HTTPStatus.TOO_MANY_REQUESTS,
    DrainingError: HTTPStatus.SERVICE_UNAVAILABLE,
}


class ApiError(Exception):
    """A request that cannot be answered: the status, and a sentence with cause and next step."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def make_app(service: Service, token: Token) -> FastAPI:
    """Make the application for one service."""
    app = FastAPI(title="sandbox-runner", version="1", docs_url=None, redoc_url=None)
    _add_health(app, service)
    app.include_router(_jobs(service, token))
    _add_problems(app)
    return app


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/live")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        if service.draining:
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "The runner is stopping and takes no more jobs.")
        if not service.reconciled:
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "The runner starts, and looks for what it left running.")
        return {"status": "ready"}


def _jobs(service: Service, token: Token) -> APIRouter:
    def admitted(request: Request) -> None:
        if not token.admits(request.headers.get("authorization")):
            raise ApiError(HTTPStatus.UNAUTHORIZED, "Send `Authorization: Bearer TOKEN` with the runner's API token.")

    def found(job_id: str) -> Record:
        record = service.records.get(job_id)
        if record is None:
            raise ApiError(HTTPStatus.NOT_FOUND, "There is no job of that id; the oldest ones are forgotten.")
        return record

    jobs = APIRouter(prefix="/v1/jobs", dependencies=[Depends(admitted)])

    @jobs.post("", status_code=HTTPStatus.ACCEPTED, openapi_extra=_body(JobRequest))
    async def submit(request: Request) -> JobView:
        return JobView.of(await service.submit(_parse(await _bounded_body(request)).to_job()))

    @jobs.get("/{job_id}")
    async def show(record: Annotated[Record, Depends(found)]) -> JobView:
        return JobView.of(record)

    @jobs.get("/{job_id}/log", response_class=StreamingResponse)
    async def log(
        record: Annotated[Record, Depends(found)],
        offset: Annotated[int, Query(ge=0, le=1 << 62)] = 0,
        follow: bool = False,
    ) -> StreamingResponse:
        content: AsyncIterator[bytes] = record.follow(offset) if follow else _now(record, offset)
        return StreamingResponse(content, media_type="application/octet-stream")

    @jobs.post("/{job_id}/cancel", status_code=HTTPStatus.ACCEPTED)
    async def cancel(record: Annotated[Record, Depends(found)]) -> JobView:
        await service.cancel(record, "a client of the API")
        return JobView.of(record)

    return jobs


def _add_problems(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(_request: Request, error: ApiError) -> Response:
        return _problem(error.status, str(error))

    @app.exception_handler(RunnerError)
    async def runner_error(_request: Request, error: RunnerError) -> Response:
        return _problem(_STATUS.get(type(error), HTTPStatus.INSUFFICIENT_STORAGE), str(error))

    @app.exception_handler(RequestValidationError)
    async def bad_parameter(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{'.'.join(map(str, first['loc']))}: {first['msg']}.")

    @app.exception_handler(HTTPException)
    async def http_error(_request: Request, error: HTTPException) -> Response:
        return _problem(HTTPStatus(error.status_code), f"{error.detail}. The API is described at /openapi.json.")


def _problem(status: HTTPStatus, detail: str) -> JSONResponse:
    problem = Problem(title=status.phrase, status=status, detail=detail)
    return JSONResponse(problem.model_dump(), status, media_type="application/problem+json")


async def _bounded_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A request has {MAX_BODY} bytes at most.")
    return bytes(body)


def _parse(body: bytes) -> JobRequest:
    try:
        return JobRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{where}: {first['msg']}.") from None


def _body(model: type[JobRequest]) -> dict[str, object]:
    """Describe a body that is read by hand, with a bound, for the OpenAPI document."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _now(record: Record, offset: int) -> AsyncIterator[bytes]:
    for data in record.read(offset):
        yield data
