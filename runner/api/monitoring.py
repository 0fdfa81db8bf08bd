"""For monitoring: health checks, without a token, and metrics, with their own scope."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

from http import HTTPStatus

from fastapi import APIRouter, Depends
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from runner.api.access import Access
from runner.api.problems import ApiError
from runner.service.health import Health
from runner.store.tokens import Scope


def make_router(health: Health, access: Access) -> APIRouter:
    """Make the routes for one service."""
    router = APIRouter()

    @router.get("/live")
    async def live() -> dict[str, str]:
        """Say whether the process works: its event loop and its store answer. If not, restart it."""
        await health.check_alive()
        return {"status": "alive"}

    @router.get("/ready")
    async def ready() -> dict[str, str]:
        """Say whether a job that is submitted now would be run. If not, name the reasons: wait, or look at them."""
        if unready := await health.unready():
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, " ".join(unready.values()), reasons=list(unready))
        return {"status": "ready"}

    @router.get("/metrics", dependencies=[Depends(access.needs(Scope.METRICS))], response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Return the metrics of the service and its keeper for Prometheus."""
        return PlainTextResponse(await health.metrics(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return router
