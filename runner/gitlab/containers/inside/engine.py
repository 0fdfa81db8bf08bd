"""Calls the sandbox's own Docker Engine over its socket, for values that must not appear in an argument list.

Raises Failed when the engine refuses a request, and OSError when the request did not reach it.
"""

from __future__ import annotations

import http.client
import io
import json
import socket
import tarfile
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

SOCKET = "/var/run/docker.sock"
SECONDS = 120.0


class Failed(Exception):
    """The engine refused the request; the text is its own."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Connection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(SOCKET)


def call(method: str, path: str, body: object = None, /, **query: object) -> Any:  # noqa: ANN401 - JSON
    """Make one request and return the JSON of its answer."""
    answer = read(method, path, body, **query)[1]
    return json.loads(answer) if answer.strip() else None


def read(method: str, path: str, body: object = None, /, **query: object) -> tuple[http.client.HTTPMessage, bytes]:
    """Make one request, with bytes or a JSON value as its body, and return the answer's head and body."""
    connection = _Connection("docker", timeout=SECONDS)
    kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
    content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    try:
        connection.request(method, f"{path}?{urlencode(query)}", content, {"Content-Type": kind})
        answer = connection.getresponse()
        data = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"Docker's answer cannot be understood ({type(error).__name__})") from None
    finally:
        connection.close()
    if answer.status >= 400:
        raise Failed(answer.status, _message(data))
    return answer.headers, data


def container(name: str, action: str = "") -> str:
    """Return the path of a container or of one of its actions."""
    return f"/containers/{quote(name, safe='')}{action}"


def has_path(name: str, path: str) -> bool:
    """Return whether a container has something at a path, even if only a link."""
    try:
        read("HEAD", container(name, "/archive"), path=path)
    except Failed as error:
        if error.status == 404:
            return False
        raise
    return True


class Account(NamedTuple):
    """A line of /etc/passwd, which any program can have written."""

    name: str
    id: str
    home: str


def accounts(name: str) -> list[Account]:
    """Return the accounts of a container; none if it has no /etc/passwd."""
    try:
        content = read("GET", container(name, "/archive"), path="/etc/passwd")[1]
    except Failed as error:
        if error.status == 404:
            return []
        raise
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        found = archive.next()
        file = archive.extractfile(found) if found and found.isfile() else None
        lines = file.read().decode(errors="replace").splitlines() if file else []
    parts = [line.split(":") for line in lines]
    return [Account(part[0], part[2], part[5]) for part in parts if len(part) > 5 and part[2].isdecimal()]


def has_image(name: str) -> bool:
    """Return whether the engine has an image."""
    try:
        call("GET", f"/images/{quote(name)}/json")
    except Failed as error:
        if error.status == 404:
            return False
        raise
    return True


def remove_container(name: str) -> None:
    """Remove a container with its volumes. Idempotent."""
    try:
        call("DELETE", container(name), force=1, v=1)
    except Failed as error:
        if error.status != 404:
            raise


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])
    except (ValueError, LookupError, TypeError):
        return data.decode(errors="replace")[:500]
