"""The service itself over HTTP: status, drain, resume, stop."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

from http import HTTPStatus
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from runner.api import bodies
from runner.api.access import Access
from runner.api.models import DeliveryView, Status, StopRequest
from runner.api.server import Works
from runner.logs import Action, Events
from runner.service.service import Service
from runner.store.deliveries import Deliveries
from runner.store.threads import reading
from runner.store.tokens import Scope, TokenFacts

_events = Events(__name__)


def make_router(service: Service, works: Works, deliveries: Deliveries, access: Access) -> APIRouter:
    """Make the routes for one service, and for all that works beside it."""
    operation = APIRouter(prefix="/v1")
    Operator = Annotated[TokenFacts, Depends(access.needs(Scope.ADMIN))]  # noqa: N806 - a type

    @operation.get("/status", dependencies=[Depends(access.needs(Scope.READ))])
    async def status() -> Status:
        """Return the state of the service."""
        hold = await reading(service.records.jobs.hold)
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

    @operation.get("/webhooks", dependencies=[Depends(access.needs(Scope.READ))])
    async def webhooks() -> list[DeliveryView]:
        """List the webhook messages that their receivers have not accepted, the oldest first."""
        return [DeliveryView.of(one) for one in await reading(deliveries.in_trouble)]

    @operation.post("/drain")
    async def drain(operator: Operator) -> Status:
        """Start no more jobs until somebody resumes, even after a restart. New jobs wait; running ones go on."""
        _events.info(Action.DRAINING, f"drained by {operator.who}", who=operator.who)
        await service.drain(operator.name)
        return await status()

    @operation.post("/resume")
    async def resume(operator: Operator) -> Status:
        """Start waiting jobs again."""
        _events.info(Action.WORKING, f"resumed by {operator.who}", who=operator.who)
        await service.resume()
        return await status()

    @operation.post(
        "/stop", status_code=HTTPStatus.ACCEPTED, openapi_extra=bodies.described(StopRequest, required=False)
    )
    async def stop(operator: Operator, request: Request) -> Status:
        """Take no more jobs, and end when no job runs any more; with `force`, end the running jobs."""
        body = await bodies.read(request, bodies.SMALL)
        wanted = bodies.parse(body, StopRequest) if body else StopRequest()
        _events.info(Action.STOPPING, f"stopped by {operator.who}", who=operator.who)
        if wanted.force:
            works.abort(f"it was told to stop at once by {operator.name}.")
        else:
            works.stop()
        return await status()

    return operation
