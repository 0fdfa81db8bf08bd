"""The service itself over HTTP: how it is, drain, resume, stop."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

from http import HTTPStatus
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Depends

from runner.api.access import Access
from runner.api.models import Status, StopRequest
from runner.api.server import Works
from runner.logs import Action, Events
from runner.service.service import Service
from runner.store.tokens import Scope, TokenFacts

_events = Events(__name__)


def make_router(service: Service, works: Works, access: Access) -> APIRouter:
    """Make the routes for one service, and for all that works beside it."""
    operation = APIRouter(prefix="/v1")
    Operator = Annotated[TokenFacts, Depends(access.needs(Scope.ADMIN))]  # noqa: N806 - a type

    @operation.get("/status", dependencies=[Depends(access.needs(Scope.READ))])
    async def status() -> Status:
        """Say how the service is."""
        hold = service.records.hold()
        return Status(
            version=version("sandbox-runner"),
            mode=service.mode,
            drained_by=hold.by if hold else None,
            drained_since=hold.since if hold else None,
            slots=service.slots,
            running=service.running,
            gitlab_running=works.running - service.running,
            waiting=service.records.waiting,
            disk=service.housekeeper.disk,
            disk_free=service.housekeeper.room.free,
            held=service.held,
        )

    @operation.post("/drain")
    async def drain(operator: Operator) -> Status:
        """Start nothing more until somebody resumes, also over restarts. Jobs are taken and wait; what runs goes on."""
        _events.info(Action.DRAINING, f"drained by {operator.name}", who=operator.name)
        await service.drain(operator.name)
        return await status()

    @operation.post("/resume")
    async def resume(operator: Operator) -> Status:
        """Start what waits again."""
        _events.info(Action.WORKING, f"resumed by {operator.name}", who=operator.name)
        await service.resume()
        return await status()

    @operation.post("/stop", status_code=HTTPStatus.ACCEPTED)
    async def stop(operator: Operator, request: StopRequest | None = None) -> Status:
        """Take no more jobs, and end when nothing runs any more; with `force`, what runs is ended."""
        _events.info(Action.STOPPING, f"stopped by {operator.name}", who=operator.name)
        if request and request.force:
            works.abort(f"it was told to stop at once by {operator.name}.")
        else:
            works.stop()
        return await status()

    return operation
