"""One call to the Docker Engine, on connections of its own that end with its deadline or its limit of bytes.

docker-py's own timeouts are per read, so that an engine that drips bytes would never time out. Here every read and
write gets the rest of one deadline: the call ends in the thread that made it and leaves nothing behind.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import docker
from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnectionPool
from urllib3.connection import HTTPConnection

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

MAX_ANSWER = 8 * 1024 * 1024
"""Most bytes in the answer to one call: enough to list some two thousand containers."""


class Call:
    """The time and bytes that one call has left, and the sockets that it opened."""

    def __init__(self, socket_path: str, seconds: float) -> None:
        self.connected = False
        """Whether the engine accepted a connection."""
        self._path = socket_path
        self._deadline = time.monotonic() + seconds
        self._bytes = MAX_ANSWER
        self._sockets: list[socket.socket] = []

    @property
    def left(self) -> float:
        """Seconds until the deadline. Raises `TimeoutError` after it."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the call's deadline is over")
        return left

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() >= self._deadline

    @property
    def is_flooded(self) -> bool:
        """Whether the answer exceeded `MAX_ANSWER`."""
        return self._bytes <= 0

    @property
    def is_stale(self) -> bool:
        """Whether the engine has removed the socket, so that only a mount of ours keeps it in place."""
        try:
            return os.stat(self._path).st_nlink == 0  # noqa: PTH116 - also right when tests patch Path
        except OSError:
            return False

    @contextmanager
    def client(self, version: str) -> Iterator[docker.APIClient]:
        """Open a client that connects through this call only."""
        api = docker.APIClient(f"unix://{self._path}", version=version)
        adapter = _Adapter(self)
        api.mount("http+docker://", adapter)
        try:
            yield api
        finally:
            for opened in self._sockets:
                opened.close()
            adapter.close()
            api.close()

    def dial(self) -> socket.socket:
        """Connect to the engine."""
        opened = _Bounded(self)
        self._sockets.append(opened)
        opened.settimeout(self.left)
        opened.connect(self._path)
        self.connected = True
        return opened

    def received(self, count: int) -> None:
        """Count received bytes. Raises `OSError` when there are too many."""
        self._bytes -= count
        if self.is_flooded:
            raise OSError("the answer is longer than any answer is")


class _Bounded(socket.socket):
    """A connection whose every read and write gets the time that its call has left."""

    def __init__(self, call: Call) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._call = call

    def recv_into(self, buffer: "WriteableBuffer", nbytes: int = 0, flags: int = 0) -> int:
        """Read as `socket.socket` does; http.client uses no other way."""
        self.settimeout(self._call.left)
        count = super().recv_into(buffer, nbytes, flags)
        self._call.received(count)
        return count

    def sendall(self, data: "ReadableBuffer", flags: int = 0, /) -> None:
        """Send as `socket.socket` does; the timeout covers all of it."""
        self.settimeout(self._call.left)
        super().sendall(data, flags)


class _Connection(HTTPConnection):
    def __init__(self, call: Call) -> None:
        super().__init__("localhost")
        self._call = call

    def connect(self) -> None:
        self.sock = self._call.dial()


class _Pool(UnixHTTPConnectionPool):
    def __init__(self, call: Call) -> None:
        super().__init__("http+docker://localhost", "")
        self._call = call

    def _new_conn(self) -> _Connection:
        return _Connection(self._call)


class _Adapter(UnixHTTPAdapter):
    def __init__(self, call: Call) -> None:
        super().__init__("http+unix://")
        self._pool = _Pool(call)

    def get_connection(self, *_: object, **__: object) -> _Pool:
        return self._pool

    def close(self) -> None:
        self._pool.close()
        super().close()
