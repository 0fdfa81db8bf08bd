"""Who may do what: each request carries a token, and each route needs a scope."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

import math
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import Request, Security
from fastapi.security import HTTPBearer

from runner.api.problems import ApiError
from runner.api.rate import Buckets
from runner.api.token import Token
from runner.logs import Action, Events
from runner.store.threads import reading
from runner.store.tokens import Scope, TokenFacts, Tokens

_events = Events(__name__)

FIRST: Final = TokenFacts("first", "the operator", frozenset(Scope), 0.0, None)
"""The token in the state folder: it may do everything, and serves to create the others."""

_DOCUMENTED: Final = HTTPBearer(auto_error=False, description="A token of `runner token create`, or the first one.")


class Access:
    """Tells which client a request comes from."""

    def __init__(self, first: Token, tokens: Tokens, buckets: Buckets) -> None:
        self._first = first
        self._tokens = tokens
        self._buckets = buckets

    def needs(self, scope: Scope) -> Callable[..., Awaitable[TokenFacts]]:
        """Return the dependency that admits only clients with a scope."""

        async def caller(
            request: Request, _documented: Annotated[object, Security(_DOCUMENTED, scopes=[scope])] = None
        ) -> TokenFacts:
            client = await self._client(request.headers.get("authorization"))
            self._slow_down(client)
            if scope not in client.scopes:
                what = f"{client.who} may not {request.method} {request.url.path}: no scope {scope}"
                _events.warning(Action.DENIED, what, who=client.who)
                raise ApiError(HTTPStatus.FORBIDDEN, f"The token may not do this: it lacks the scope `{scope}`.")
            return client

        return caller

    def _slow_down(self, client: TokenFacts) -> None:
        wait = self._buckets.take(client.id, time.monotonic())
        if wait:
            seconds = math.ceil(wait)
            raise ApiError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"The token asks more often than {self._buckets.rate:g} times in a second. Ask again in {seconds} s.",
                {"Retry-After": str(seconds)},
            )

    async def _client(self, header: str | None) -> TokenFacts:
        if self._first.admits(header):
            return FIRST
        kind, _, token = (header or "").partition(" ")
        if kind.lower() != "bearer":
            raise ApiError(HTTPStatus.UNAUTHORIZED, "Send `Authorization: Bearer TOKEN` with one of the API's tokens.")
        client = await reading(self._tokens.find, token)
        if client is None:
            raise ApiError(HTTPStatus.UNAUTHORIZED, "The token is unknown or was revoked. Have a new one created.")
        if client.expired:
            raise ApiError(HTTPStatus.UNAUTHORIZED, "The token has expired. Have a new one created.")
        return client
