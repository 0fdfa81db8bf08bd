"""Proves that a sandbox is fit: a login with the pinned host key, an echoed nonce, inner Docker on overlay2.

One deadline covers everything. Everything the sandbox says is bounded and parsed as hostile: after a job with root, its
sshd may be the job's.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files

from sandbox import ssh
from sandbox.errors import Fault, SandboxFault
from sandbox.identity import Identity
from sandbox.ssh import left, words

STORAGE_DRIVER = "overlay2"
BUILD_CACHE = 5 * 1024**3
"""Bytes of inner build cache that are kept for later jobs of the same trust key."""
_MAX_ANSWER = 64 * 1024
_MAX_RECEIVED = 512 * 1024
_TOO_LATE = "It did not finish its answer to the probe in time."
_CONNECT_TRY = 1.0
_CONNECT_RETRY = 0.02
_KEEPALIVE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
"""Seconds of silence before the kernel probes the other end, seconds between two probes, and number of probes."""


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What to remove after a job. Inner containers, volumes and networks always go."""

    folders: Mapping[str, Sequence[str]]
    """The job's own folders, each with the names in it that stay."""
    build_cache: int = BUILD_CACHE
    """Bytes of inner build cache to keep; the least recently used goes first."""


@dataclass(frozen=True, slots=True)
class Proof:
    """A fit sandbox's answer."""

    docker_version: str
    clock: float
    """The sandbox's clock, in seconds since the epoch."""


Dial = Callable[[], socket.socket]
"""Connects to a sandbox's SSH server."""

Patience = Callable[[], None]
"""Called between two tries while a sandbox boots; raises when waiting has become pointless."""


def connect(address: str, deadline: float, patience: Patience | None = None) -> socket.socket:
    """Connect to a sandbox's port 22 by the monotonic `deadline`; with `patience`, retry until then.

    A try may hang: when a container is removed meanwhile, nothing is left to refuse it. Raises `SandboxFault`
    (`ssh-dead`), or what `patience` raises.
    """
    while True:
        remaining = deadline - time.monotonic()
        try:
            limit = remaining if patience is None else min(remaining, _CONNECT_TRY)
            sock = socket.create_connection((address, 22), timeout=max(0.01, limit))
        except OSError as error:
            if patience is None or remaining <= 0:
                raise SandboxFault(Fault.SSH_DEAD, f"Nothing answers on its SSH port: {error}.") from error
        else:
            # A login sends small messages, some two in a row: the second would wait 40 ms for the first one's
            # acknowledgement.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # The other end may vanish silently; without keepalive, a reader would wait until the deadline.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
            return sock
        patience()
        time.sleep(_CONNECT_RETRY)  # nothing signals when another machine's port opens


def prove(
    dial: Dial, identity: Identity, deadline: float, cleaning: Cleaning | None = None, *, container: bool = False
) -> Proof:
    """Clean a sandbox if asked and prove it by the monotonic `deadline`; with `container`, run a container in it.

    A container takes inner Docker 0.3 s or more, several times the rest. Raises `SandboxFault` with the kind of the
    finding.
    """
    with _logged_in(dial, identity, deadline) as transport:
        return probe(transport, deadline, cleaning, container=container)


def probe(
    transport: ssh.Transport, deadline: float, cleaning: Cleaning | None = None, *, container: bool = False
) -> Proof:
    """Prove as `prove` does, over an existing login. Only `prove` bounds what a hostile sandbox may send."""
    nonce = secrets.token_hex(16)
    answer = _ask(
        transport,
        {
            "nonce": nonce,
            "container": container,
            "clean": {"folders": dict(cleaning.folders), "build_cache": cleaning.build_cache} if cleaning else None,
            # The sandbox gives up before we do: an answer that its Docker is dead is better than no answer.
            "seconds": max(0.0, (deadline - time.monotonic()) * 0.8),
        },
        deadline,
    )
    return _judge(answer, nonce, "It could not run a container" if container else "It could not be cleaned")


def run(dial: Dial, identity: Identity, script: bytes, deadline: float) -> bytes:
    """Log in by the monotonic `deadline`, run the script with `sh`, and return its bounded output.

    Raises `SandboxFault`.
    """
    with _logged_in(dial, identity, deadline) as transport:
        return _run(transport, "exec sh -s", script, deadline)


@contextmanager
def _logged_in(dial: Dial, identity: Identity, deadline: float) -> Iterator[ssh.Transport]:
    with closing(_Bounded(dial(), deadline)) as sock:
        keys = identity.host.public, identity.client.private
        with closing(ssh.login(sock, *keys, deadline)) as transport:
            yield transport


class _Bounded(socket.socket):
    """A connection that ends for paramiko after the deadline or after `_MAX_RECEIVED` bytes of any kind.

    paramiko's own timeouts restart with each byte or window, and it buffers whatever a server sends, without limit.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        super().__init__(fileno=sock.detach())
        self._deadline = deadline
        self._budget = _MAX_RECEIVED

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        if time.monotonic() >= self._deadline:
            return b""
        received = super().recv(min(bufsize, self._budget), flags)
        self._budget -= len(received)
        return received

    def close(self) -> None:
        with suppress(OSError):  # hang up at once: paramiko's thread is reading, which would keep the connection open
            self.shutdown(socket.SHUT_RDWR)
        super().close()


def _ask(transport: ssh.Transport, order: dict[str, object], deadline: float) -> bytes:
    """Run `inner.py` with `order` as root inside, and return its output."""
    return _run(transport, "exec sudo -n python3 -I -S -", program(order), deadline)


def program(order: dict[str, object]) -> bytes:
    """Return `inner.py` as a program that carries out `order`."""
    return files("sandbox").joinpath("inner.py").read_bytes() + f"main({order!r})\n".encode()


def _run(transport: ssh.Transport, command: str, told: bytes, deadline: float) -> bytes:
    """Run a command with `told` on its stdin, and return its output."""
    try:
        channel = transport.open_session(timeout=left(deadline))
        channel.settimeout(left(deadline))
        channel.exec_command(command)
        channel.sendall(told)
        channel.shutdown_write()
        answer = _read_all(channel)
    except ssh.LOST as error:
        if time.monotonic() >= deadline:
            raise SandboxFault(Fault.PROBE_FAILED, _TOO_LATE) from error
        raise SandboxFault(Fault.PROBE_FAILED, f"A login worked but nothing could be run: {words(error)}.") from error
    if time.monotonic() >= deadline:
        raise SandboxFault(Fault.PROBE_FAILED, _TOO_LATE)
    return answer


def _read_all(channel: ssh.Channel) -> bytes:
    answer = bytearray()
    while chunk := channel.recv(4096):
        answer += chunk
        if len(answer) > _MAX_ANSWER:
            raise SandboxFault(Fault.PROBE_FAILED, "It answered the probe with more than any probe prints.")
    return bytes(answer)


def _judge(answer: bytes, nonce: str, failed: str) -> Proof:
    try:
        facts = json.loads(answer)
        echoed, info, error = facts["nonce"], facts["info"], facts["error"]
        driver, version = (info["Driver"], info["ServerVersion"]) if info else (None, "")
        clock = float(facts["clock"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise SandboxFault(
            Fault.PROBE_FAILED, "Its answer to the probe makes no sense; its Python may be broken."
        ) from None
    if echoed != nonce:
        raise SandboxFault(Fault.PROBE_FAILED, "It did not echo the nonce it was given: something else answers for it.")
    if info is None:
        raise SandboxFault(Fault.DOCKER_DEAD, f"Its Docker Engine does not answer: {words(error)}.")
    if driver != STORAGE_DRIVER:
        raise SandboxFault(
            Fault.WRONG_STORAGE_DRIVER, f"Its Docker Engine is on {words(driver)} instead of {STORAGE_DRIVER}."
        )
    if error is not None:
        raise SandboxFault(Fault.PROBE_FAILED, f"{failed}: {words(error)}.")
    return Proof(words(version), clock)
