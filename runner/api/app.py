"""The HTTP API, version 1. `docs/api.md` is its manual."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

from http import HTTPStatus
from importlib.metadata import version

from fastapi import Depends, FastAPI

from runner.api import files, jobs, tokens
from runner.api.access import Access
from runner.api.models import Status
from runner.api.problems import PROBLEMS, ApiError, add_problems
from runner.api.token import Token
from runner.service.service import Service
from runner.store.tokens import Scope, Tokens


def make_app(service: Service, first: Token, clients: Tokens) -> FastAPI:
    """Make the application for one service, with the token that is always there and those of its clients."""
    access = Access(first, clients)
    app = FastAPI(title="sandbox-runner", version="1", docs_url=None, redoc_url=None, responses=PROBLEMS)
    _add_health(app, service)
    app.include_router(jobs.make_router(service, access))
    app.include_router(files.make_router(service, access))
    app.include_router(tokens.make_router(clients, access))
    add_problems(app)
    _add_status(app, service, access)
    return app


def _add_status(app: FastAPI, service: Service, access: Access) -> None:
    @app.get("/v1/status", dependencies=[Depends(access.needs(Scope.READ))])
    async def status() -> Status:
        """Say how the service is."""
        return Status(
            version=version("sandbox-runner"),
            draining=service.draining,
            slots=service.slots,
            running=service.running,
            waiting=service.records.waiting,
        )


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
