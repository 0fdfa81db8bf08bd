"""One call to the Docker Engine, on connections of its own that end with its deadline and its allowance of bytes.

docker-py's own timeouts are per read, so an engine that drips bytes would never be given up. Here every read and write
gets what is left of one deadline: the call ends in the thread that made it, and nothing of it is left.
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
"""Bytes that one call may be answered with: a listing of some two thousand containers."""


class Call:
    """What one call has left of time and bytes, and the sockets that it opened."""

    def __init__(self, socket_path: str, seconds: float) -> None:
        self.connected = False
        """Whether the engine accepted a connection."""
        self._path = socket_path
        self._deadline = time.monotonic() + seconds
        self._bytes = MAX_ANSWER
        self._sockets: list[socket.socket] = []

    @property
    def left(self) -> float:
        """Seconds until the deadline. Raises `TimeoutError` when it is over."""
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the call's deadline is over")
        return left

    @property
    def is_late(self) -> bool:
        """Whether the deadline is over."""
        return time.monotonic() >= self._deadline

    @property
    def is_flooded(self) -> bool:
        """Whether the answer was longer than any answer is."""
        return self._bytes <= 0

    @property
    def is_stale(self) -> bool:
        """Whether the socket is one that its engine has removed, and that only a mount of ours keeps in place."""
        try:
            return os.stat(self._path).st_nlink == 0  # noqa: PTH116 - the same for those who patch paths
        except OSError:
            return False

    @contextmanager
    def client(self, version: str) -> Iterator[docker.APIClient]:
        """A client whose every connection is this call's."""
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
        """Take note of bytes that came in. Raises `OSError` when they were too many."""
        self._bytes -= count
        if self.is_flooded:
            raise OSError("the answer is longer than any answer is")


class _Bounded(socket.socket):
    """A connection that gives each read and write what is left of its call."""

    def __init__(self, call: Call) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._call = call

    def recv_into(self, buffer: "WriteableBuffer", nbytes: int = 0, flags: int = 0) -> int:
        """As `socket.socket` does; http.client reads by no other way."""
        self.settimeout(self._call.left)
        count = super().recv_into(buffer, nbytes, flags)
        self._call.received(count)
        return count

    def sendall(self, data: "ReadableBuffer", flags: int = 0, /) -> None:
        """As `socket.socket` does: the timeout counts for all of it."""
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
