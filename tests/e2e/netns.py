"""Moves this process into the engine's network namespace, so that the library can connect to sandboxes."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def network_of_engine() -> Iterator[None]:
    """For the length of the block; nothing to do where the engine has no namespace of its own."""
    namespace = os.environ.get("DOCKER_NETNS")
    if namespace is None:
        yield
        return
    with Path("/proc/self/ns/net").open() as before, Path(namespace).open() as engines:
        _enter(engines.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot enter the network namespace")
