"""Network namespaces of a test: its packets stay in them."""

from __future__ import annotations

import ctypes
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace, and one thread that lives in it.

    Whatever the thread opens or starts belongs to the namespace; a socket stays there when others use it.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=file.name, initializer=_enter, initargs=(file,))

    def call(self, act: Callable[[], _T]) -> _T:
        return self._thread.submit(act).result(60)

    def run(self, *command: str, given: str = "") -> str:
        def act() -> subprocess.CompletedProcess[str]:
            return subprocess.run(command, input=given, capture_output=True, text=True, timeout=30, check=False)

        process = self.call(act)
        assert process.returncode == 0, f"{' '.join(command)}: {process.stderr}"
        return process.stdout

    def ip(self, commands: str) -> None:
        """What `ip -batch` reads: a command on each line, without `ip`."""
        self.run("ip", "-batch", "-", given=commands)

    def sysctl(self, name: str, value: int) -> None:
        self.call(lambda: Path("/proc/sys/net", name).write_text(str(value)))

    def close(self) -> None:
        self._thread.shutdown()


def _enter(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        if _libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {file}")
    finally:
        os.close(descriptor)


@contextmanager
def new_namespace(name: str) -> Iterator[Namespace]:
    """A namespace with its loopback up, gone at the end."""
    unique = f"walls-{name}-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", unique], check=True, timeout=30)
    namespace = Namespace(Path("/run/netns", unique))
    try:
        namespace.ip("link set lo up")
        # Without it an IPv6 address can be used only a second later.
        namespace.sysctl("ipv6/conf/default/accept_dad", 0)
        yield namespace
    finally:
        namespace.close()
        subprocess.run(["ip", "netns", "delete", unique], check=True, timeout=30)
