"""Whether the service answers, for health checks; Python's own HTTP client starts in a quarter of the time."""

from __future__ import annotations

import json
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final
from urllib.parse import urlsplit

from runner.errors import ClientError

_NEXT: Final = "Start it, or set RUNNER_URL."
_TIMEOUT: Final = 5.0
_MAX_ANSWER: Final = 64 * 1024
"""Bytes; the answer of `/ready` is shorter."""


def main(url: str, *, live: bool, as_json: bool) -> int:
    """Print the service's answer, and return the command's exit code. Errors: ClientError.

    `as_json`: print the service's own document, which names the reasons if it is not ready.
    """
    try:
        parts = urlsplit(url)
        kind = {"http": HTTPConnection, "https": HTTPSConnection}[parts.scheme]
        connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT)
        try:
            connection.request("GET", f"{parts.path}/{'live' if live else 'ready'}")
            answer = connection.getresponse()
            said = _document(answer.read(_MAX_ANSWER))
        finally:
            connection.close()
    except KeyError:
        raise ClientError(f"{url!r} is no address of a runner: it begins with http:// or https://.") from None
    except (OSError, HTTPException, ValueError) as error:
        raise ClientError(f"No runner answers at {url}: {str(error) or type(error).__name__}. {_NEXT}") from error
    if said is None:
        raise ClientError(f"What answers at {url} is no runner: HTTP {answer.status}. {_NEXT}")
    print(json.dumps(said) if as_json else said.get("detail") or said["status"])
    return 0 if answer.status == 200 else 1


def _document(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and "status" in document else None
