"""A private Docker Engine for a module of tests, beside the shared one. Needs root and a few seconds."""

import fcntl
import io
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from pathlib import Path

from sandbox.evaluation import host, private_engine
from sandbox.evaluation.layout import Layout


@contextmanager
def private(name: str) -> Iterator[Layout]:
    """Have one up, and nothing left of it afterwards. `name` has at most five letters: interfaces are named by it.

    One at a time on this host, whichever process of the tests it is in: they have the same addresses.
    """
    with Path(tempfile.gettempdir(), "sandbox-private-engine.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        yield from _private(name)


def _private(name: str) -> Iterator[Layout]:
    # Not pytest's own folder: the remapped root must be able to pass through.
    folder = Path(tempfile.mkdtemp(prefix=f"sandbox-{name}-", dir="/var/tmp"))
    folder.chmod(0o711)
    layout = Layout(
        folder / "state",
        folder / "run",
        netns=f"sandbox-{name}",
        host_link=f"sbx{name}-host",
        engine_link=f"sbx{name}-engine",
        addresses=IPv4Network("198.19.0.0/16"),
    )
    try:
        private_engine.up(layout, print)
        yield layout
    finally:
        private_engine.down(layout, print, purge=True)
        folder.rmdir()


def static_root() -> bytes:
    """A root file system with nothing but this host's shell, what it needs, and `sleep`."""
    buffer = io.BytesIO()
    programs = ["/bin/sh", "/bin/sleep", "/bin/cat"]
    libraries = {word for word in host.run("ldd", *programs).split() if word.startswith("/") and word[-1] != ":"}
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as tar:
        for file in [*programs, *libraries]:
            tar.add(file)
    return buffer.getvalue()
