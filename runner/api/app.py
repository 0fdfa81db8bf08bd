"""The HTTP API, version 1. `docs/api.md` is its manual."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

from http import HTTPStatus
from typing import Final

from fastapi import FastAPI

from runner.api import jobs, operation, tokens
from runner.api.access import Access
from runner.api.problems import PROBLEMS, ApiError, add_problems
from runner.api.rate import Buckets
from runner.api.server import Works
from runner.api.token import Token
from runner.service.service import Service
from runner.store.tokens import Tokens

#: Far more than a client needs that waits for answers, and far less than what would hold up all others.
REQUEST_RATE: Final = 200.0
REQUEST_BURST: Final = 1000


def make_app(
    service: Service,
    first: Token,
    clients: Tokens,
    works: Works | None = None,
    *,
    rate: float = REQUEST_RATE,
    burst: int = REQUEST_BURST,
) -> FastAPI:
    """Make the application for one service, with the token that is always there and those of its clients.

    `works` is what is drained and stopped with it, itself included, where that is more than the service. Each client
    may ask `burst` times at once, and `rate` times in each second.
    """
    access = Access(first, clients, Buckets(rate, burst))
    app = FastAPI(title="sandbox-runner", version="1", docs_url=None, redoc_url=None, responses=PROBLEMS)
    _add_health(app, service)
    app.include_router(jobs.make_router(service, access))
    app.include_router(tokens.make_router(clients, access))
    app.include_router(operation.make_router(service, works or service, access))
    add_problems(app)
    return app


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/live")
    async def live() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        if not service.mode.takes:
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "The runner is stopping and takes no more jobs.")
        if not service.reconciled:
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "The runner starts, and looks for what it left running.")
        return {"status": "ready"}
