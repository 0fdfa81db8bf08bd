"""Sends one line to the keeper and receives one, whatever they say. Imports next to nothing, for health checks."""

import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from sandbox.errors import KeeperUnreachable, ProtocolError

ANSWER_DEADLINE = 30.0
"""Seconds the keeper has to answer, in addition to any wait in the request."""
MAX_LINE = 1024 * 1024


def exchange(
    path: Path,
    request: bytes,
    deadline: float = ANSWER_DEADLINE,
    attend: Callable[[socket.socket], AbstractContextManager[object]] = nullcontext,
) -> tuple[bytes, list[int]]:
    """Return the keeper's answer and the open files that came with it, which the caller must close.

    `attend` is entered with the connection while it is used, and may shut it down.

    Raises `KeeperUnreachable` or `ProtocolError`.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(deadline)
        try:
            connection.connect(str(path))
        except OSError as error:
            raise KeeperUnreachable(_advice(path, error)) from error
        try:
            with attend(connection):
                connection.sendall(request)
                return _receive(connection)
        except TimeoutError:
            raise KeeperUnreachable(f"The keeper did not answer within {deadline:.0f} s; look at its log.") from None
        except OSError as error:
            raise KeeperUnreachable(
                f"The keeper hung up in the middle of its answer ({error}); look at its log."
            ) from error


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    line, descriptors = bytearray(), list[int]()
    try:
        while not line.endswith(b"\n") and len(line) <= MAX_LINE:
            chunk, received, _, _ = socket.recv_fds(connection, 65536, 1)
            descriptors += received
            line += chunk
            if not chunk:
                break
        complete = line.endswith(b"\n")
    except OSError:
        _close(descriptors)
        raise
    if not complete:
        _close(descriptors)
        raise ProtocolError("The keeper's answer broke off. Was it restarted just now? Try again.")
    return bytes(line), descriptors


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _advice(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return (
            f"There is no keeper socket at {path}. "
            "Start the keeper (docker compose up -d), or name its socket with --keeper."
        )
    if isinstance(error, PermissionError):
        return f"No permission to open the keeper's socket {path}. Use root, or an account of the socket's group."
    return f"No keeper answers on {path} ({error}). Start it: docker compose up -d."
