"""The keeper's unix socket: parses one request per connection, calls the keeper, answers. No TCP, ever."""

import errno
import select
import shutil
import socket
import socketserver
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from sandbox import places
from sandbox.errors import ConfigError, KeeperError, NotNow, ProtocolError, SandboxError
from sandbox.keeper import protocol
from sandbox.keeper.exchange import MAX_LINE
from sandbox.keeper.verbs import Verbs
from sandbox.logs import Action, Events

events = Events("keeper")

REQUEST_DEADLINE = 10.0
"""Seconds a client has to send its line, and later to take its answer."""


class KeeperServer(socketserver.ThreadingUnixStreamServer):
    """Serves one keeper's verbs on `run_folder`/keeper/socket. Raises `ConfigError` when that cannot be made.

    Whoever can reach the socket may use the keeper; the run folder is closed to all but root and `group`. The socket
    itself is open, so that a container with `run_folder`/keeper mounted can use it, whatever user ids the engine maps
    its processes to.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, run_folder: Path, verbs: Verbs, group: str | None) -> None:
        self.verbs = verbs
        self.path = run_folder / places.SOCKET_IN_RUN_FOLDER
        try:
            _close_to_others(run_folder, group)
            self.path.parent.mkdir(exist_ok=True)
            self.path.parent.chmod(0o755)  # regardless of the umask
            _refuse_second_keeper(self.path)
            self.path.unlink(missing_ok=True)
            super().__init__(str(self.path), _Handler)
            self.path.chmod(0o666)
        except (OSError, LookupError) as error:
            raise ConfigError(f"The keeper's socket {self.path} cannot be made: {error}.") from error

    def server_close(self) -> None:
        """Close the socket. Also called when the server could not be started."""
        super().server_close()
        self.path.unlink(missing_ok=True)


class _ClientLeft(Exception):
    """The client went away, or does not take its answer."""


class _Handler(socketserver.BaseRequestHandler):
    """One connection: reads a line and sends a line, with a connected socket for a lease."""

    def handle(self) -> None:
        client: socket.socket = self.request
        try:
            try:
                self._answer(client, protocol.decode_request(_read_line(client)))
            except SandboxError as error:
                if not isinstance(error, KeeperError):
                    events.warning(Action.REQUEST_FAILED, f"a request failed: {error}")
                _send(client, protocol.Refusal(refused=str(error), again=isinstance(error, NotNow)))
        except _ClientLeft as error:
            events.info(Action.CLIENT_LEFT, f"a client went away: {error}")
        except Exception as error:  # noqa: BLE001 - the other clients are still served
            events.error(Action.DEFECT, "a request met a defect in the keeper", error=error)
            # An OSError (a file, a write) says nothing about a lease: a retry may succeed.
            again = isinstance(error, OSError)
            failed = "The keeper itself failed on this request; look at its log."
            with suppress(_ClientLeft):
                _send(client, protocol.Refusal(refused=failed, again=again))

    def _answer(self, client: socket.socket, request: protocol.Message) -> None:
        verbs: Verbs = self.server.verbs  # type: ignore[attr-defined]
        match _ANSWERS[type(request)](verbs, request, lambda: _has_hung_up(client)):
            case (entrance, connection):
                try:
                    _hand_over(client, entrance, connection)
                except _ClientLeft:
                    if isinstance(request, protocol.Lend):
                        verbs.take_back(request)
                    raise
            case reply:
                _send(client, reply)


_Answer = Callable[[Verbs, Any, Callable[[], bool]], protocol.Reply | tuple[protocol.Entrance, socket.socket]]

_ANSWERS: Final[Mapping[type[protocol.Message], _Answer]] = {
    protocol.Lend: lambda verbs, request, hung_up: verbs.lend(request, hung_up),
    protocol.Resume: lambda verbs, request, _: verbs.resume(request),
    protocol.Renew: lambda verbs, request, _: verbs.renew(request),
    protocol.Kill: lambda verbs, request, _: verbs.kill(request),
    protocol.Return: lambda verbs, request, _: verbs.give_back(request),
    protocol.Condemn: lambda verbs, request, _: verbs.condemn(request),
    protocol.List: lambda verbs, *_: verbs.listing(),
    protocol.Ping: lambda verbs, *_: verbs.ping(),
    protocol.Offer: lambda verbs, *_: verbs.offer(),
    protocol.Measure: lambda verbs, *_: verbs.measure(),
    protocol.Inspect: lambda verbs, request, _: verbs.inspect(request),
    protocol.Hold: lambda verbs, request, _: verbs.hold(request),
    protocol.Release: lambda verbs, request, _: verbs.release(request),
    protocol.Enter: lambda verbs, request, _: verbs.enter(request),
}


def _has_hung_up(client: socket.socket) -> bool:
    """Whether the client has closed its end. A client that only ended its sending (`nc -N`) still listens."""
    poll = select.poll()
    poll.register(client, 0)  # poll reports a hang-up in any case
    return bool(poll.poll(0))


@contextmanager
def _talking() -> Iterator[None]:
    """Convert errors of the client's connection. Raises `_ClientLeft`."""
    try:
        yield
    except OSError as error:
        raise _ClientLeft(str(error)) from error


def _hand_over(client: socket.socket, grant: protocol.Entrance, connection: socket.socket) -> None:
    with connection, _talking():
        socket.send_fds(client, [protocol.encode_reply(grant)], [connection.fileno()])


@_talking()
def _read_line(client: socket.socket) -> bytes:
    line, deadline = bytearray(), time.monotonic() + REQUEST_DEADLINE
    while not line.endswith(b"\n"):
        try:
            client.settimeout(_left(deadline))
            chunk = client.recv(65536)
        except TimeoutError:
            raise ProtocolError(f"The request did not come within {REQUEST_DEADLINE:.0f} s.") from None
        if not chunk:
            raise ProtocolError("The request ended in the middle of its line.")
        line += chunk
        if len(line) > MAX_LINE:
            raise ProtocolError("The request is longer than any request may be.")
    client.settimeout(REQUEST_DEADLINE)
    return bytes(line)


def _left(deadline: float) -> float:
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    return left


def _send(client: socket.socket, reply: protocol.Reply | protocol.Refusal) -> None:
    line = protocol.encode_reply(reply)
    with _talking():
        client.sendall(line)


def _close_to_others(run_folder: Path, group: str | None) -> None:
    run_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    strangers = {entry.name for entry in run_folder.iterdir()} - {"keeper"}
    if strangers:
        # Closing a folder that others also use, such as /run, would break the host.
        raise ConfigError(
            f"The run folder {run_folder} holds other things ({min(strangers)}); give the keeper its own."
        )
    if group is not None:
        shutil.chown(run_folder, group=int(group) if group.isdecimal() else group)
    run_folder.chmod(0o700 if group is None else 0o710)


def _refuse_second_keeper(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # EAGAIN: a keeper listens, with a full queue
        if probe.connect_ex(str(path)) in (0, errno.EAGAIN):
            raise ConfigError(
                f"Another keeper answers on {path} already. Stop it, or give this one another --run-folder."
            )
