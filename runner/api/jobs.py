"""Jobs over HTTP: submit, list, show, follow the log, cancel."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import ValidationError

from runner.api.access import Access
from runner.api.models import JobPage, JobRequest, JobView, place
from runner.api.problems import ApiError
from runner.service.record import Record
from runner.service.service import Service
from runner.store import jobs as submission
from runner.store.states import JobState
from runner.store.tokens import Scope, TokenFacts

_logger = logging.getLogger(__name__)

#: Largest request body in bytes: a script of the largest size, with JSON's escapes.
MAX_BODY: Final = 160 * 1024 * 1024

IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=200)]


def make_router(service: Service, access: Access) -> APIRouter:
    """Make the routes for one service's jobs."""
    reader, submitter = Depends(access.needs(Scope.READ)), access.needs(Scope.SUBMIT)

    async def found(job_id: str) -> Record:
        record = service.records.get(job_id)
        if record is None:
            raise _unknown()
        return record

    jobs = APIRouter(prefix="/v1/jobs")

    @jobs.post("", status_code=HTTPStatus.ACCEPTED, openapi_extra=_body(JobRequest))
    async def submit(
        request: Request, client: Annotated[TokenFacts, Depends(submitter)], idempotency_key: IdempotencyKey = None
    ) -> JobView:
        """Take a job. With an Idempotency-Key that was used before it is the same job, if the body is the same."""
        body = await _bounded_body(request)
        name = submission.Request(idempotency_key, body) if idempotency_key else None
        record = await service.submit(_parse(body).to_job(), name)
        _logger.info("job %s: submitted by %s", record.id, client.name)
        return _view(service, record.id)

    @jobs.get("", dependencies=[reader])
    async def list_jobs(
        limit: Annotated[int, Query(ge=1, le=500)] = 50, before: str | None = None, state: JobState | None = None
    ) -> JobPage:
        """List the newest jobs, or those that were submitted before a certain one."""
        found = await asyncio.to_thread(service.records.page, limit, before, state)
        return JobPage(jobs=[JobView.of(job) for job in found], next=found[-1].id if len(found) == limit else None)

    @jobs.get("/{job_id}", dependencies=[reader])
    async def show(job_id: str) -> JobView:
        return _view(service, job_id)

    @jobs.get("/{job_id}/log", dependencies=[reader], response_class=StreamingResponse)
    async def log(
        record: Annotated[Record, Depends(found)],
        offset: Annotated[int, Query(ge=0, le=1 << 62)] = 0,
        follow: bool = False,
    ) -> StreamingResponse:
        content: AsyncIterator[bytes] = record.follow(offset) if follow else _now(record, offset)
        return StreamingResponse(content, media_type="application/octet-stream")

    @jobs.post("/{job_id}/cancel", status_code=HTTPStatus.ACCEPTED)
    async def cancel(
        client: Annotated[TokenFacts, Depends(submitter)], record: Annotated[Record, Depends(found)]
    ) -> JobView:
        """Ask for a job's end. It has not ended yet when this returns."""
        await service.cancel(record, client.name)
        return _view(service, record.id)

    return jobs


def _view(service: Service, job_id: str) -> JobView:
    summary = service.records.summary(job_id)
    if summary is None:
        raise _unknown()
    return JobView.of(summary)


def _unknown() -> ApiError:
    return ApiError(HTTPStatus.NOT_FOUND, "There is no job of that id; the oldest ones are forgotten.")


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
        where = ".".join(map(str, place(first["loc"]))) or "the body"
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{where}: {first['msg']}.") from None


def _body(model: type[JobRequest]) -> dict[str, object]:
    """Describe a body that is read by hand, with a bound, for the OpenAPI document."""
    schema = model.model_json_schema()
    inlined = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}


def _inlined(schema: object, definitions: Mapping[str, object]) -> object:
    """Return a schema without references, which would not lead anywhere in the document."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if name := schema.get("$ref"):
        return _inlined(definitions[str(name).rpartition("/")[2]], definitions)
    return {key: _inlined(part, definitions) for key, part in schema.items()}


async def _now(record: Record, offset: int) -> AsyncIterator[bytes]:
    for data in record.read(offset):
        yield data
