"""Counts from outside how often a script starts, and holds it until it may go on, whatever happens to the sandbox.

The script connects to a socket of the test on the loopback of its sandbox's network namespace: no wall is between them,
no cleaning finds the socket, and it outlives the sandbox.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

PORT = 4711
_CLONE_NEWNET = 0x40000000


class Starts:
    """The starts of one script in whatever sandboxes it comes to."""

    def __init__(self) -> None:
        self._seen: list[socket.socket] = []
        self._listeners: dict[int, socket.socket] = {}
        self._go = False
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """How often it has started until now."""
        with self._lock:
            return len(self._seen)

    def watch(self, pid: int) -> None:
        """Count in the network namespace of this process too. Idempotent."""
        if pid in self._listeners:
            return
        with ThreadPoolExecutor(1) as thread:  # a thread that is in another namespace must not do anything else
            self._listeners[pid] = thread.submit(_listen, pid).result()
        threading.Thread(target=self._accept, args=[self._listeners[pid]], daemon=True).start()

    def go(self) -> None:
        """Let the script go on, also one that starts later."""
        with self._lock:
            self._go = True
            for script in self._seen:
                _let_go(script)

    def close(self) -> None:
        """Stop counting."""
        for thing in (*self._listeners.values(), *self._seen):
            _close(thing)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                script, _ = listener.accept()
            except OSError:
                return
            with self._lock:
                self._seen.append(script)
                if self._go:
                    _let_go(script)


def _listen(pid: int) -> socket.socket:
    namespace = os.open(Path(f"/proc/{pid}/ns/net"), os.O_RDONLY)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(namespace, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns failed")
    finally:
        os.close(namespace)
    return socket.create_server(("127.0.0.1", PORT))


def _let_go(script: socket.socket) -> None:
    with suppress(OSError):  # it is gone with its sandbox
        script.sendall(b"g")


def _close(thing: socket.socket) -> None:
    """Close a socket that another thread may wait on."""
    with suppress(OSError):  # it was not connected, or is not any more
        thing.shutdown(socket.SHUT_RDWR)
    thing.close()
