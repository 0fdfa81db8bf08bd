"""The HTTP API, version 1. `docs/api.md` is its manual."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

from collections.abc import Awaitable, Callable, Sequence

from fastapi import FastAPI

from runner.api import files, jobs, monitoring, operation, sandboxes, tokens
from runner.api.access import Access
from runner.api.problems import PROBLEMS, add_problems
from runner.api.rate import Buckets
from runner.api.server import Works
from runner.api.token import Token
from runner.execution.lease import SandboxFacts
from runner.service.health import Health
from runner.service.service import Service
from runner.store.deliveries import Deliveries
from runner.store.tokens import Tokens


async def _none() -> Sequence[SandboxFacts]:
    return ()


def make_app(
    service: Service,
    first: Token,
    clients: Tokens,
    deliveries: Deliveries,
    works: Works | None = None,
    keeper: Callable[[], Awaitable[str]] | None = None,
    known: sandboxes.Sandboxes = _none,
    *,
    rate: float = 200.0,
    burst: int = 1000,
) -> FastAPI:
    """Make the application for one service.

    `first` is the token that is always there, `clients` has those of its clients, and `deliveries` the messages that
    its webhooks have still to send. `works` is what an operator drains and stops, if that is more than the service,
    which it includes; `keeper` returns the keeper's metrics, if there is a keeper; `known` lists the sandboxes. Each
    client may ask `burst` times at once, and `rate` times in each second.
    """
    access = Access(first, clients, Buckets(rate, burst))
    app = FastAPI(title="sandbox-runner", version="1", docs_url=None, redoc_url=None, responses=PROBLEMS)
    app.include_router(monitoring.make_router(Health(service, keeper), access))
    app.include_router(jobs.make_router(service, access))
    app.include_router(files.make_router(service, access))
    app.include_router(sandboxes.make_router(service, known, access))
    app.include_router(tokens.make_router(clients, access))
    app.include_router(operation.make_router(service, works or service, deliveries, access))
    add_problems(app)
    return app
