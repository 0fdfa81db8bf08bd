"""The files of jobs over HTTP: uploads of archives, downloads of artifacts."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

import asyncio
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse

from runner.api import bodies
from runner.api.access import Access
from runner.api.lookup import record_of
from runner.api.models import ArtifactList, UploadView
from runner.api.problems import ApiError
from runner.execution.files.bundle import Kept
from runner.logs import Action, Events
from runner.service.service import Service
from runner.store.tokens import Scope, TokenFacts

_events = Events(__name__)

_DEADLINE: Final = 1800.0
"""Seconds for a whole archive: the time of the largest size over 5 Mbit/s."""
_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def make_router(service: Service, access: Access) -> APIRouter:
    """Make the routes for one service's files."""
    reader, submitter = Depends(access.needs(Scope.READ)), access.needs(Scope.SUBMIT)
    files = APIRouter(prefix="/v1")

    @files.post("/uploads", status_code=HTTPStatus.CREATED, openapi_extra=_BODY)
    async def upload(request: Request, client: Annotated[TokenFacts, Depends(submitter)]) -> UploadView:
        """Take an archive that a job names as its source: tar, plain or compressed with gzip, bzip2 or xz."""
        view = await _receive(request, service)
        _events.info(Action.UPLOADED, f"archive {view.id}: {view.size} bytes, sent by {client.who}", who=client.who)
        return view

    @files.get("/jobs/{job_id}/artifacts", dependencies=[reader])
    async def artifacts(job_id: str) -> ArtifactList:
        """List the artifacts of a job."""
        return ArtifactList.of(await _kept(service, job_id))

    @files.get("/jobs/{job_id}/artifacts/archive", dependencies=[reader], response_class=FileResponse)
    async def archive(job_id: str) -> FileResponse:
        """Download the artifacts of a job, as a tar archive compressed with gzip. Ranges are answered."""
        path = (await record_of(service.records, job_id)).bundle_path
        if not (await _kept(service, job_id)).members or not path.is_file():
            raise ApiError(HTTPStatus.NOT_FOUND, "No artifacts of this job are kept.")
        return FileResponse(path, media_type="application/gzip", filename=f"{job_id}.tar.gz")

    return files


async def _receive(request: Request, service: Service) -> UploadView:
    incoming = await asyncio.to_thread(service.new_upload)

    async def take(piece: bytes) -> None:
        await asyncio.to_thread(incoming.write, piece)

    try:
        await bodies.receive(request, service.file_limits.archive_bytes, _DEADLINE, take)
        size = await asyncio.to_thread(incoming.keep)
    finally:
        await asyncio.to_thread(incoming.close)
    return UploadView(id=incoming.id, size=size)


async def _kept(service: Service, job_id: str) -> Kept:
    """Return the artifacts of a job, once it has its outcome: until then, they may be collected again."""
    record = await record_of(service.records, job_id)
    if record.result is None:
        raise ApiError(HTTPStatus.CONFLICT, "The job has no outcome yet. Ask again when its state is `settled`.")
    return await asyncio.to_thread(record.kept)
