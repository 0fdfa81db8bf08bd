"""Who may do what: each request carries a token, and each route needs a scope."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import Request, Security
from fastapi.security import HTTPBearer

from runner.api.problems import ApiError
from runner.api.token import Token
from runner.store.tokens import Scope, TokenFacts, Tokens

#: The token in the state folder: it may do everything, and is there to create the others.
FIRST: Final = TokenFacts("first", "the operator", frozenset(Scope), 0.0, None)

_DOCUMENTED: Final = HTTPBearer(auto_error=False, description="A token of `runner token create`, or the first one.")


class Access:
    """Tells who a request comes from."""

    def __init__(self, first: Token, tokens: Tokens) -> None:
        self._first = first
        self._tokens = tokens

    def needs(self, scope: Scope) -> Callable[..., Awaitable[TokenFacts]]:
        """Return the dependency that lets only clients with a scope in."""

        async def caller(
            request: Request, _documented: Annotated[object, Security(_DOCUMENTED, scopes=[scope])] = None
        ) -> TokenFacts:
            client = self._client(request.headers.get("authorization"))
            if scope not in client.scopes:
                raise ApiError(HTTPStatus.FORBIDDEN, f"The token may not do this: it lacks the scope `{scope}`.")
            return client

        return caller

    def _client(self, header: str | None) -> TokenFacts:
        if self._first.admits(header):
            return FIRST
        kind, _, token = (header or "").partition(" ")
        client = self._tokens.find(token) if kind.lower() == "bearer" else None
        if client is None:
            raise ApiError(HTTPStatus.UNAUTHORIZED, "Send `Authorization: Bearer TOKEN` with one of the API's tokens.")
        if client.expired:
            raise ApiError(HTTPStatus.UNAUTHORIZED, "The token has expired. Have a new one created.")
        return client
