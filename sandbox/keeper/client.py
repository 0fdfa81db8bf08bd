"""A client of the keeper's socket. Blocking, one connection per request, safe to use from several threads."""

import os
import socket
from pathlib import Path
from typing import TypeVar

from sandbox.errors import KeeperRefused, KeeperUnreachable, NotNow, ProtocolError
from sandbox.keeper import protocol
from sandbox.text import one_line

_R = TypeVar(
    "_R",
    protocol.LeaseGrant,
    protocol.Entrance,
    protocol.Done,
    protocol.Listing,
    protocol.Findings,
    protocol.Pong,
    protocol.Measured,
)
_E = TypeVar("_E", protocol.LeaseGrant, protocol.Entrance)

ANSWER_DEADLINE = 30.0
"""Seconds the keeper has to answer, beyond what a request says itself."""


class KeeperClient:
    """Asks the keeper at `path`. Every call raises `KeeperUnreachable`, `KeeperRefused` or `ProtocolError`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def lend(self, request: protocol.Lend) -> tuple[protocol.LeaseGrant, socket.socket]:
        """A lease, and a socket connected to the sandbox's port 22 that is now the caller's to close."""
        return self._connected(request, protocol.LeaseGrant, request.wait + ANSWER_DEADLINE)

    def resume(self, token: str) -> tuple[protocol.LeaseGrant, socket.socket]:
        """The lease that one has, and a new connection. Refused when it is over; `NotNow` when it is not."""
        return self._connected(protocol.Resume(token=token), protocol.LeaseGrant)

    def renew(self, token: str) -> None:
        """The attempt is alive."""
        self._ask(protocol.Renew(token=token), protocol.Done)

    def kill(self, token: str) -> None:
        """End every process of the attempt; they are gone when this returns."""
        self._ask(protocol.Kill(token=token), protocol.Done)

    def give_back(self, token: str, *, used: bool) -> None:
        """The attempt is over."""
        self._ask(protocol.Return(token=token, used=used), protocol.Done)

    def condemn(self, token: str, reason: str) -> None:
        """The sandbox is not fit for another job."""
        line = one_line(reason[:1000])
        self._ask(protocol.Condemn(token=token, reason=line or "It gave no reason."), protocol.Done)

    def listing(self) -> protocol.Listing:
        """Every sandbox."""
        return self._ask(protocol.List(), protocol.Listing)

    def ping(self) -> protocol.Pong:
        """Is the keeper there, and fit?"""
        return self._ask(protocol.Ping(), protocol.Pong)

    def metrics(self, deadline: float | None = None) -> str:
        """What the keeper counts and times, in Prometheus's text format; it has `deadline` seconds to answer."""
        return self._ask(protocol.Measure(), protocol.Measured, deadline).text

    def inspect(self, name: str) -> protocol.Findings:
        """What there is to know of one sandbox."""
        return self._ask(protocol.Inspect(sandbox=name), protocol.Findings)

    def hold(self, name: str, seconds: float) -> None:
        """Keep a sandbox for a person."""
        self._ask(protocol.Hold(sandbox=name, seconds=seconds), protocol.Done)

    def release(self, name: str) -> None:
        """Throw a held sandbox away."""
        self._ask(protocol.Release(sandbox=name), protocol.Done)

    def enter(self, name: str) -> tuple[protocol.Entrance, socket.socket]:
        """What it takes to log in to a held sandbox, and a connection to it."""
        return self._connected(protocol.Enter(sandbox=name), protocol.Entrance)

    def _connected(
        self,
        request: protocol.Lend | protocol.Resume | protocol.Enter,
        expected: type[_E],
        deadline: float = ANSWER_DEADLINE,
    ) -> tuple[_E, socket.socket]:
        line, descriptors = self._exchange(request, deadline)
        if not descriptors:
            _parse(line, protocol.Done)  # a refusal is raised here
            raise ProtocolError(f"The keeper answered `{request.verb}` without a connection.")
        connection = socket.socket(fileno=descriptors[0])
        try:
            connection.setblocking(True)  # the keeper's own timeout came with it
            return _parse(line, expected), connection
        except BaseException:
            connection.close()
            raise

    def _ask(self, request: protocol.Message, expected: type[_R], deadline: float | None = None) -> _R:
        line, _ = self._exchange(request, deadline or ANSWER_DEADLINE)
        return _parse(line, expected)

    def _exchange(self, request: protocol.Message, deadline: float) -> tuple[bytes, list[int]]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(deadline)
            try:
                connection.connect(str(self._path))
            except OSError as error:
                raise KeeperUnreachable(_advice(self._path, error)) from error
            try:
                connection.sendall(protocol.encode_request(request))
                return _receive(connection)
            except TimeoutError:
                raise KeeperUnreachable(
                    f"The keeper did not answer within {deadline:.0f} s; look at its log."
                ) from None
            except OSError as error:
                raise KeeperUnreachable(
                    f"The keeper hung up in the middle of its answer ({error}); look at its log."
                ) from error


def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    line, descriptors = bytearray(), list[int]()
    try:
        while not line.endswith(b"\n") and len(line) <= protocol.MAX_LINE:
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


def _parse(line: bytes, expected: type[_R]) -> _R:
    reply = protocol.decode_reply(line, expected)
    if isinstance(reply, protocol.Refusal):
        raise (NotNow if reply.again else KeeperRefused)(reply.refused)
    return reply


def _advice(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return (
            f"There is no keeper socket at {path}. "
            "Start the keeper (docker compose up -d), or name its socket with --keeper."
        )
    if isinstance(error, PermissionError):
        return f"No permission to open the keeper's socket {path}. Use root, or an account of the socket's group."
    return f"No keeper answers on {path} ({error}). Start it: docker compose up -d."
