"""The sandboxes over HTTP."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

from collections.abc import Awaitable, Callable, Sequence

from fastapi import APIRouter, Depends

from runner.api.access import Access
from runner.api.models import SandboxView
from runner.execution.lease import SandboxFacts
from runner.service.ask_once import AskOnce
from runner.service.service import Service
from runner.store.tokens import Scope

Sandboxes = Callable[[], Awaitable[Sequence[SandboxFacts]]]
"""Returns all sandboxes that jobs may be given. Errors: LeaseError."""


def make_router(service: Service, sandboxes: Sandboxes, access: Access) -> APIRouter:
    """Make the route for the sandboxes that one service's jobs may be given."""
    router = APIRouter(prefix="/v1/sandboxes", dependencies=[Depends(access.needs(Scope.READ))])
    # Only one thread asks a keeper that hangs: the common threads are few, and renewals need them.
    known = AskOnce(sandboxes)

    @router.get("")
    async def list_sandboxes() -> list[SandboxView]:
        """List the sandboxes, also those that others have: a keeper lends to several runners."""
        jobs = service.attempts
        return [SandboxView.of(facts, jobs.get(facts.attempt or "")) for facts in await known()]

    return router
