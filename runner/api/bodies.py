"""Bodies of requests: read with a bound and a deadline, parsed into a model, and described for the OpenAPI document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Final, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from runner.api.mistakes import mistakes, named
from runner.api.problems import ApiError

SMALL: Final = 64 * 1024
"""Largest body of a request that carries no script, in bytes."""
DEADLINE: Final = 300.0
"""Seconds for a whole body: the time of the largest job over 5 Mbit/s."""
_CLOSE: Final = {"Connection": "close"}
"""The rest of a refused body is not read."""

_LARGE: Final = ThreadPoolExecutor(2, thread_name_prefix="parse")
"""For large bodies: each takes several times its size of memory, so only two are parsed at once."""

_M = TypeVar("_M", bound=BaseModel)
_T = TypeVar("_T")


async def read(request: Request, limit: int) -> bytes:
    """Return the body. Errors: as for `receive`."""
    body = bytearray()

    async def take(piece: bytes) -> None:
        body.extend(piece)

    await receive(request, limit, DEADLINE, take)
    return bytes(body)


async def receive(request: Request, limit: int, seconds: float, take: Callable[[bytes], Awaitable[None]]) -> None:
    """Pass the body on, piece by piece. Errors: those of `take`; ApiError.

    A body whose Content-Length is over the limit is refused before any of it is read.
    """
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdecimal() and (len(announced) > 18 or int(announced) > limit):
        raise _too_large(limit)
    size = 0
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                size += len(piece)
                if size > limit:
                    raise _too_large(limit)
                await take(piece)
    except TimeoutError:
        detail = f"The body did not come within {seconds:g} s. Send it again."
        raise ApiError(HTTPStatus.REQUEST_TIMEOUT, detail, _CLOSE) from None
    except ClientDisconnect:
        raise ApiError(HTTPStatus.BAD_REQUEST, "The connection ended within the body.", _CLOSE) from None


async def understood(body: bytes, understand: Callable[[bytes], _T]) -> _T:
    """Return the meaning of a body. A large body is parsed on a thread, so that renewals of leases go on meanwhile."""
    if len(body) <= SMALL:
        return understand(body)
    return await asyncio.get_running_loop().run_in_executor(_LARGE, understand, body)


def parse(body: bytes, model: type[_M]) -> _M:
    """Parse a body into a model. Errors: ApiError, which names the wrong fields but quotes nothing.

    As strict as for a job's file: no text counts as a number, and no name occurs twice.
    """
    try:
        parsed = model.model_validate_json(body, strict=True)
    except ValidationError as error:
        told = " ".join(sentence for _, sentence in mistakes(error, model))
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, told) from None
    json.loads(body, object_pairs_hook=_check_names)
    return parsed


def _check_names(pairs: list[tuple[str, object]]) -> None:
    """Refuse the second of two equal names: it would silently win."""
    names = set()
    for name, _ in pairs:
        if name in names:
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{named((name,))}: this name was given before.")
        names.add(name)


def described(model: type[BaseModel], *, required: bool = True) -> dict[str, object]:
    """Describe a body that the routes read themselves, for the OpenAPI document."""
    schema = model.model_json_schema()
    inlined = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": inlined}}}}


def _inlined(schema: object, definitions: Mapping[str, object]) -> object:
    """Return a schema without references, which would lead nowhere in the document."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if name := schema.get("$ref"):
        return _inlined(definitions[str(name).rpartition("/")[2]], definitions)
    return {key: _inlined(part, definitions) for key, part in schema.items() if key != "discriminator"}


def _too_large(limit: int) -> ApiError:
    detail = f"This request has {limit} bytes at most. Fetch large data from within the script."
    return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, _CLOSE)
