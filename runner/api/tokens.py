"""Tokens over HTTP: create, list, revoke."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from runner.api import bodies
from runner.api.access import Access
from runner.api.models import NewToken, TokenRequest, TokenView
from runner.api.problems import ApiError
from runner.logs import Action, Events
from runner.store.threads import reading, writing
from runner.store.tokens import Scope, TokenFacts, Tokens

_events = Events(__name__)


def make_router(tokens: Tokens, access: Access) -> APIRouter:
    """Make the routes for the tokens of one service."""
    admitted = access.needs(Scope.ADMIN)
    router = APIRouter(prefix="/v1/tokens", dependencies=[Depends(admitted)])

    @router.post("", status_code=HTTPStatus.CREATED, openapi_extra=bodies.described(TokenRequest))
    async def create(request: Request, admin: Annotated[TokenFacts, Depends(admitted)]) -> NewToken:
        """Make a token. Only this answer shows it."""
        wanted = bodies.parse(await bodies.read(request, bodies.SMALL), TokenRequest)
        seconds = None if wanted.days is None else wanted.days * 24 * 3600
        facts, token = await writing(tokens.create, wanted.name, wanted.scopes, seconds)
        what = f"token {facts.id} for {facts.name!r} was created by {admin.who}"
        _events.info(Action.TOKEN_CREATED, what, who=admin.who)
        return NewToken(**TokenView.of(facts).model_dump(), token=token)

    @router.get("")
    async def list_tokens() -> list[TokenView]:
        """List all tokens but the first one."""
        return [TokenView.of(facts) for facts in await reading(tokens.all)]

    @router.delete("/{token_id}", status_code=HTTPStatus.NO_CONTENT)
    async def revoke(token_id: str, admin: Annotated[TokenFacts, Depends(admitted)]) -> None:
        """Revoke a token: it is worthless from now on."""
        if not await writing(tokens.revoke, token_id):
            raise ApiError(HTTPStatus.NOT_FOUND, "There is no token of that id. `runner token ls` has them.")
        _events.info(Action.TOKEN_REVOKED, f"token {token_id} was revoked by {admin.who}", who=admin.who)

    return router
