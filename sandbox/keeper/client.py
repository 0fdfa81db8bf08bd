"""A client of the keeper's socket. Blocking, one connection per request, safe to use from several threads."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TypeVar

from sandbox.errors import KeeperRefused, NotNow, ProtocolError
from sandbox.keeper import protocol
from sandbox.keeper.exchange import ANSWER_DEADLINE, exchange
from sandbox.text import one_line

_R = TypeVar(
    "_R",
    protocol.LeaseGrant,
    protocol.Entrance,
    protocol.Done,
    protocol.Listing,
    protocol.Findings,
    protocol.Pong,
    protocol.Offered,
    protocol.Measured,
)
_E = TypeVar("_E", protocol.LeaseGrant, protocol.Entrance)


class Withdrawal:
    """Withdraws a request while another thread waits for the answer: the client hangs up, and the keeper drops it.

    The waiting thread gets `KeeperError` at once, or the answer if that was already on its way.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._withdrawn = False
        self._connection: socket.socket | None = None

    def withdraw(self) -> None:
        """Hang up, now or as soon as there is a connection. Has no effect after the answer."""
        with self._lock:
            self._withdrawn = True
            self._hang_up()

    @contextmanager
    def attend(self, connection: socket.socket) -> Iterator[None]:
        """Watch over the connection that the request uses."""
        with self._lock:
            self._connection = connection
            if self._withdrawn:
                self._hang_up()
        try:
            yield
        finally:
            with self._lock:  # the closed descriptor's number may belong to another file later
                self._connection = None

    def _hang_up(self) -> None:
        if self._connection:
            with suppress(OSError):  # the keeper hung up first
                self._connection.shutdown(socket.SHUT_RDWR)


class KeeperClient:
    """Asks the keeper at `path`. Every call raises `KeeperUnreachable`, `KeeperRefused` or `ProtocolError`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def lend(
        self, request: protocol.Lend, withdrawal: Withdrawal | None = None
    ) -> tuple[protocol.LeaseGrant, socket.socket]:
        """Return a lease, and a socket connected to the sandbox's port 22, which the caller must close."""
        attend = withdrawal.attend if withdrawal else nullcontext
        return self._connected(request, protocol.LeaseGrant, request.wait + ANSWER_DEADLINE, attend)

    def resume(self, token: str) -> tuple[protocol.LeaseGrant, socket.socket]:
        """Return the attempt's lease and a new connection. Refused if the lease is over; `NotNow` if it is not."""
        return self._connected(protocol.Resume(token=token), protocol.LeaseGrant)

    def renew(self, token: str) -> None:
        """Renew the lease: the attempt is alive."""
        self._ask(protocol.Renew(token=token), protocol.Done)

    def kill(self, token: str) -> None:
        """End every process of the attempt; they are gone when this returns."""
        self._ask(protocol.Kill(token=token), protocol.Done)

    def give_back(self, token: str, *, used: bool) -> None:
        """End the lease."""
        self._ask(protocol.Return(token=token, used=used), protocol.Done)

    def condemn(self, token: str, reason: str) -> None:
        """Report the sandbox as unfit for another job."""
        line = one_line(reason[:1000])
        self._ask(protocol.Condemn(token=token, reason=line or "It gave no reason."), protocol.Done)

    def listing(self, deadline: float | None = None) -> protocol.Listing:
        """List every sandbox; the keeper has `deadline` seconds to answer."""
        return self._ask(protocol.List(), protocol.Listing, deadline)

    def ping(self) -> protocol.Pong:
        """Ask whether the keeper is there and fit."""
        return self._ask(protocol.Ping(), protocol.Pong)

    def profiles(self, deadline: float | None = None) -> dict[str, list[str]]:
        """Return each profile's labels, in the order of the keeper's file; it has `deadline` seconds to answer."""
        return self._ask(protocol.Offer(), protocol.Offered, deadline).profiles

    def metrics(self, deadline: float | None = None) -> str:
        """Return the keeper's metrics in Prometheus's text format; the keeper has `deadline` seconds to answer."""
        return self._ask(protocol.Measure(), protocol.Measured, deadline).text

    def inspect(self, name: str) -> protocol.Findings:
        """Return all that is known of one sandbox."""
        return self._ask(protocol.Inspect(sandbox=name), protocol.Findings)

    def hold(self, name: str, seconds: float) -> None:
        """Keep a sandbox for a person."""
        self._ask(protocol.Hold(sandbox=name, seconds=seconds), protocol.Done)

    def release(self, name: str) -> None:
        """Throw a held sandbox away."""
        self._ask(protocol.Release(sandbox=name), protocol.Done)

    def enter(self, name: str) -> tuple[protocol.Entrance, socket.socket]:
        """Return what is needed to log in to a held sandbox, and a connection to it."""
        return self._connected(protocol.Enter(sandbox=name), protocol.Entrance)

    def _connected(
        self,
        request: protocol.Lend | protocol.Resume | protocol.Enter,
        expected: type[_E],
        deadline: float = ANSWER_DEADLINE,
        attend: Callable[[socket.socket], AbstractContextManager[object]] = nullcontext,
    ) -> tuple[_E, socket.socket]:
        line, descriptors = exchange(self._path, protocol.encode_request(request), deadline, attend)
        if not descriptors:
            _parse(line, protocol.Done)  # a refusal is raised here
            raise ProtocolError(f"The keeper answered `{request.verb}` without a connection.")
        connection = socket.socket(fileno=descriptors[0])
        try:
            connection.setblocking(True)  # the descriptor came with the keeper's timeout
            return _parse(line, expected), connection
        except BaseException:
            connection.close()
            raise

    def _ask(self, request: protocol.Message, expected: type[_R], deadline: float | None = None) -> _R:
        line, _ = exchange(self._path, protocol.encode_request(request), deadline or ANSWER_DEADLINE)
        return _parse(line, expected)


def _parse(line: bytes, expected: type[_R]) -> _R:
    reply = protocol.decode_reply(line, expected)
    if isinstance(reply, protocol.Refusal):
        raise (NotNow if reply.again else KeeperRefused)(reply.refused)
    return reply
