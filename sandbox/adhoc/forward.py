"""Forwards a port of this host's loopback to a port in a sandbox."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import closing, suppress
from types import TracebackType
from typing import TYPE_CHECKING

from sandbox import ssh
from sandbox.errors import ConnectionLost

_OPEN_DEADLINE = 10.0
_LOOK_INTERVAL = 0.5
_PIECE = 65536

if TYPE_CHECKING:
    End = socket.socket | ssh.Channel


class Forward:
    """Forwards connections from 127.0.0.1:`local` here to `host`:`port`, seen from the sandbox, while its block lasts.

    Entering returns the local port; with `local` 0 the system chooses it.
    """

    def __init__(self, transport: ssh.Transport, port: int, host: str = "127.0.0.1", local: int = 0) -> None:
        self._transport = transport
        self._place = (host, port)
        self._ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", local))
        self._listener.settimeout(_LOOK_INTERVAL)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name=f"forward {port}", daemon=True)

    def __enter__(self) -> int:
        self._thread.start()
        return self.port

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        self._listener.close()
        self._thread.join(_LOOK_INTERVAL * 4)

    def wait(self) -> None:
        """Wait until the connection to the sandbox breaks, which raises `ConnectionLost`."""
        while self._transport.is_active():
            self._ended.wait(_LOOK_INTERVAL)
        raise ConnectionLost("The connection to the sandbox broke. Was it removed? `sandbox ls` tells.")

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, caller = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            threading.Thread(target=self._lead, args=(connection, caller), daemon=True).start()

    def _lead(self, connection: socket.socket, caller: tuple[str, int]) -> None:
        with connection, suppress(*ssh.LOST):  # either side may hang up, and the other one sees that
            connection.settimeout(None)
            place = self._place
            with closing(
                self._transport.open_channel("direct-tcpip", place, caller, timeout=_OPEN_DEADLINE)
            ) as channel:
                self._pass_on(connection, channel)

    def _pass_on(self, connection: socket.socket, channel: ssh.Channel) -> None:
        """Pass data on until both sides have ended their sending."""
        open_ends: dict[End, End] = {connection: channel, channel: connection}
        while open_ends and not self._ended.is_set():
            for ready in select.select(list(open_ends), [], [], _LOOK_INTERVAL)[0]:
                target = open_ends[ready]
                if content := ready.recv(_PIECE):
                    target.sendall(content)
                else:
                    del open_ends[ready]
                    target.shutdown(socket.SHUT_WR)
