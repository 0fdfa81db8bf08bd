"""Jobs over HTTP: submit, list, show, follow the log, cancel."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse

from runner import outcome as outcomes
from runner.api import bodies, logs
from runner.api.access import Access
from runner.api.lookup import record_of, summary_of
from runner.api.models import JobPage, JobRequest, JobView
from runner.logs import Action, Events
from runner.service.record import Record
from runner.service.service import Service
from runner.store import jobs as submission
from runner.store.states import JobState
from runner.store.threads import reading
from runner.store.tokens import Scope, TokenFacts

_events = Events(__name__)

MAX_BODY: Final = 160 * 1024 * 1024
"""Largest request body in bytes: a script of the largest size, with JSON's escapes."""

IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=200)]


def make_router(service: Service, access: Access) -> APIRouter:
    """Make the routes for one service's jobs."""
    reader, submitter = Depends(access.needs(Scope.READ)), access.needs(Scope.SUBMIT)

    async def found(job_id: str) -> Record:
        return await record_of(service.records, job_id)

    jobs = APIRouter(prefix="/v1/jobs")

    @jobs.post("", status_code=HTTPStatus.ACCEPTED, openapi_extra=bodies.described(JobRequest))
    async def submit(
        request: Request, client: Annotated[TokenFacts, Depends(submitter)], idempotency_key: IdempotencyKey = None
    ) -> JobView:
        """Take a job. With an Idempotency-Key that was used before, return the earlier job if the body is the same."""
        body = await bodies.read(request, MAX_BODY)
        name = submission.Request(idempotency_key, body) if idempotency_key else None
        job = await bodies.understood(body, lambda body: bodies.parse(body, JobRequest).to_job())
        record = await service.submit(job, name)
        _events.info(Action.SUBMITTED, f"submitted by {client.who}", job=record.id, who=client.who)
        return await _view(service, record.id)

    @jobs.get("", dependencies=[reader])
    async def list_jobs(
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        before: str | None = None,
        state: JobState | None = None,
        prefix: Annotated[str | None, Query(pattern=r"^[0-9a-f]{1,32}$")] = None,
    ) -> JobPage:
        """List the newest jobs, or those that were submitted before a given one, or whose ids begin with a prefix."""
        found = await reading(service.records.page, limit, before, state, prefix)
        return JobPage(jobs=[JobView.of(job) for job in found], next=found[-1].id if len(found) == limit else None)

    @jobs.get("/{job_id}", dependencies=[reader])
    async def show(job_id: str) -> JobView:
        return await _view(service, job_id)

    @jobs.get("/{job_id}/log", dependencies=[reader], response_class=StreamingResponse)
    async def log(
        request: Request,
        record: Annotated[Record, Depends(found)],
        offset: Annotated[int, Query(ge=0, le=1 << 62)] = 0,
        follow: bool = False,
        last_event_id: Annotated[str | None, Header(pattern=r"^[0-9]{1,18}$")] = None,
    ) -> StreamingResponse:
        """Send a log from a byte offset on: as bytes, or as events where `Accept` asks for `text/event-stream`.

        Events follow the log to its end; the last one has the outcome.
        """
        if "text/event-stream" in request.headers.get("accept", ""):
            events = _live_events(record, int(last_event_id) if last_event_id else offset)
            return StreamingResponse(events, headers={"Cache-Control": "no-store"}, media_type="text/event-stream")
        content: AsyncIterator[bytes] = record.follow(offset) if follow else _now(record, offset)
        headers = {"Vary": "Accept, Accept-Encoding"}
        if logs.accepts_gzip(request.headers.get("accept-encoding", "")):
            content, headers["Content-Encoding"] = logs.gzipped(content), "gzip"
        return StreamingResponse(content, headers=headers, media_type="application/octet-stream")

    @jobs.post("/{job_id}/cancel", status_code=HTTPStatus.ACCEPTED)
    async def cancel(
        client: Annotated[TokenFacts, Depends(submitter)], record: Annotated[Record, Depends(found)]
    ) -> JobView:
        """Ask for a job's end. The job may not have ended yet when this returns."""
        _events.info(Action.CANCELLED, f"cancelled by {client.who}", job=record.id, who=client.who)
        await service.cancel(record, client.name)
        return await _view(service, record.id)

    return jobs


async def _view(service: Service, job_id: str) -> JobView:
    return JobView.of(await summary_of(service.records, job_id))


async def _now(record: Record, offset: int) -> AsyncIterator[bytes]:
    for data in record.read(offset):
        yield data


async def _live_events(record: Record, offset: int) -> AsyncIterator[bytes]:
    events = logs.Events(offset)

    async def all_of_them() -> AsyncIterator[bytes]:
        async for data in record.follow(offset):
            if event := events.log(data):
                yield event
        if last := events.end(outcomes.to_json(record.outcome) if record.outcome else None):
            yield last

    async for event in logs.with_pulse(all_of_them(), logs.PULSE):
        yield event
