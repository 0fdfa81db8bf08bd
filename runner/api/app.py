"""The HTTP API, version 1. `docs/api.md` is its manual."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

from http import HTTPStatus
from importlib.metadata import version

from fastapi import Depends, FastAPI, Request

from runner.api import jobs
from runner.api.models import Status
from runner.api.problems import ApiError, add_problems
from runner.api.token import Token
from runner.service.service import Service


def make_app(service: Service, token: Token) -> FastAPI:
    """Make the application for one service."""

    def admitted(request: Request) -> None:
        if not token.admits(request.headers.get("authorization")):
            raise ApiError(HTTPStatus.UNAUTHORIZED, "Send `Authorization: Bearer TOKEN` with the runner's API token.")

    app = FastAPI(title="sandbox-runner", version="1", docs_url=None, redoc_url=None)
    _add_health(app, service)
    app.include_router(jobs.make_router(service), dependencies=[Depends(admitted)])

    @app.get("/v1/status", dependencies=[Depends(admitted)])
    async def status() -> Status:
        """Say how the service is."""
        return Status(
            version=version("sandbox-runner"),
            draining=service.draining,
            slots=service.slots,
            running=service.running,
            waiting=service.records.waiting,
        )

    add_problems(app)
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
