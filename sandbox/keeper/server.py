"""The keeper's unix socket: parses one request per connection, calls the keeper, answers. No TCP, ever."""

import errno
import logging
import shutil
import socket
import socketserver
import time
from contextlib import suppress
from pathlib import Path

from sandbox.errors import ConfigError, KeeperError, ProtocolError, SandboxError
from sandbox.keeper import protocol
from sandbox.keeper.keeper import Keeper

log = logging.getLogger("keeper")

REQUEST_DEADLINE = 10.0
"""Seconds a client has to send its line, and later to take its answer."""


class KeeperServer(socketserver.ThreadingUnixStreamServer):
    """Serves one keeper on `run_folder`/keeper/socket. Raises `ConfigError` when that cannot be made.

    Who may use the keeper is who can reach the socket, and the run folder is closed to all but root and `group`.
    The socket itself is open: a container reaches it when `run_folder`/keeper is mounted there, whatever user ids
    the engine maps its processes to.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, run_folder: Path, keeper: Keeper, group: str | None) -> None:
        self.keeper = keeper
        self.path = run_folder / protocol.SOCKET_IN_RUN_FOLDER
        try:
            _close_to_others(run_folder, group)
            self.path.parent.mkdir(exist_ok=True)
            self.path.parent.chmod(0o755)  # whatever the umask is
            _refuse_second_keeper(self.path)
            self.path.unlink(missing_ok=True)
            super().__init__(str(self.path), _Handler)
            self.path.chmod(0o666)
        except (OSError, LookupError) as error:
            raise ConfigError(f"The keeper's socket {self.path} cannot be made: {error}.") from error

    def server_close(self) -> None:
        """Also called when the server could not be started."""
        super().server_close()
        self.path.unlink(missing_ok=True)


class _Handler(socketserver.BaseRequestHandler):
    """One connection: a line in, a line out, and with a lease a connected socket."""

    def handle(self) -> None:
        client: socket.socket = self.request
        try:
            try:
                self._answer(client, protocol.decode_request(_read_line(client)))
            except SandboxError as error:
                if not isinstance(error, KeeperError):
                    log.warning("a request failed: %s", error)
                _send(client, protocol.Refusal(refused=str(error)))
        except OSError as error:
            log.info("a client went away: %s", error)
        except Exception:
            log.exception("a request met a defect in the keeper")
            with suppress(OSError):
                _send(client, protocol.Refusal(refused="The keeper itself failed on this request; look at its log."))

    def _answer(self, client: socket.socket, request: protocol.Message) -> None:
        keeper: Keeper = self.server.keeper  # type: ignore[attr-defined]
        match request:
            case protocol.Lend():
                grant, connection = keeper.lend(request)
                with connection:
                    socket.send_fds(client, [protocol.encode_reply(grant)], [connection.fileno()])
            case protocol.Renew():
                _send(client, keeper.renew(request))
            case protocol.Kill():
                _send(client, keeper.kill(request))
            case protocol.Return():
                _send(client, keeper.give_back(request))
            case protocol.Condemn():
                _send(client, keeper.condemn(request))
            case protocol.List():
                _send(client, keeper.listing())
            case protocol.Ping():
                _send(client, keeper.ping())


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
        if len(line) > protocol.MAX_LINE:
            raise ProtocolError("The request is longer than any request may be.")
    client.settimeout(REQUEST_DEADLINE)
    return bytes(line)


def _left(deadline: float) -> float:
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError
    return left


def _send(client: socket.socket, reply: protocol.Reply | protocol.Refusal) -> None:
    client.sendall(protocol.encode_reply(reply))


def _close_to_others(run_folder: Path, group: str | None) -> None:
    run_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    strangers = {entry.name for entry in run_folder.iterdir()} - {"keeper"}
    if strangers:
        # Closing a folder that others use as well, such as /run, would break the host.
        raise ConfigError(
            f"The run folder {run_folder} holds other things ({min(strangers)}); give the keeper its own."
        )
    if group is not None:
        shutil.chown(run_folder, group=int(group) if group.isdecimal() else group)
    run_folder.chmod(0o700 if group is None else 0o710)


def _refuse_second_keeper(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # EAGAIN: somebody listens, with a full queue
        if probe.connect_ex(str(path)) in (0, errno.EAGAIN):
            raise ConfigError(
                f"Another keeper answers on {path} already. Stop it, or give this one another --run-folder."
            )
