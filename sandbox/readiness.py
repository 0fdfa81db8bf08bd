"""Proof that a sandbox is fit: a login with the pinned host key, a nonce echoed back, inner Docker on overlay2.

Everything is under one deadline, and everything the sandbox says is bounded and parsed as hostile: after root in it,
its sshd may be a job's.
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
"""Seconds of silence before the kernel asks whether the other end is there, between two questions, and how many."""


@dataclass(frozen=True, slots=True)
class Cleaning:
    """What is removed of a job: inner containers, volumes and networks always."""

    folders: Mapping[str, Sequence[str]]
    """The job's own folders, each with the names in it that stay."""
    build_cache: int = BUILD_CACHE
    """Bytes of inner build cache that stay; the rest goes, what was used least lately first."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What a fit sandbox answered."""

    docker_version: str
    clock: float
    """Its own, in seconds since the epoch."""


Dial = Callable[[], socket.socket]
"""Connects to a sandbox's SSH server."""

Patience = Callable[[], None]
"""Called between two tries while a sandbox boots; raises when there is nothing to wait for any more."""


def connect(address: str, deadline: float, patience: Patience | None = None) -> socket.socket:
    """Connect to a sandbox's port 22 before the monotonic time `deadline`; with `patience`, try again until then.

    One try may hang: of a container that is removed meanwhile nothing is left that could refuse. Raises `SandboxFault`
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
            # A login is small messages, some of them two in a row: the second would wait 40 ms for word of the first.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # The other end may be gone without a word, and who only waits for an answer would wait to the deadline.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
            return sock
        patience()
        time.sleep(_CONNECT_RETRY)  # nothing tells when another machine's port opens


def prove(
    dial: Dial, identity: Identity, deadline: float, cleaning: Cleaning | None = None, *, container: bool = False
) -> Proof:
    """Prove readiness before the monotonic time `deadline`, after `cleaning`; with `container`, also that one runs.

    A container takes inner Docker 0.3 s and more, several times the rest. Raises `SandboxFault` with the kind of what
    was found.
    """
    with _logged_in(dial, identity, deadline) as transport:
        return probe(transport, deadline, cleaning, container=container)


def probe(
    transport: ssh.Transport, deadline: float, cleaning: Cleaning | None = None, *, container: bool = False
) -> Proof:
    """As `prove`, over a login that there is already. Only `prove` bounds what a hostile sandbox may send."""
    nonce = secrets.token_hex(16)
    answer = _ask(
        transport,
        {
            "nonce": nonce,
            "container": container,
            "clean": {"folders": dict(cleaning.folders), "build_cache": cleaning.build_cache} if cleaning else None,
            # It gives up before we do: that its Docker is dead is a better answer than none.
            "seconds": max(0.0, (deadline - time.monotonic()) * 0.8),
        },
        deadline,
    )
    return _judge(answer, nonce, "It could not run a container" if container else "It could not be cleaned")


def run(dial: Dial, identity: Identity, script: bytes, deadline: float) -> bytes:
    """Log in before the monotonic time `deadline`, and return what `sh` printed for the script, a bounded answer.

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
    """The connection, at its end for paramiko after the deadline or `_MAX_RECEIVED` bytes, whatever they were.

    paramiko's own timeouts begin anew with each byte, or with each piece that a window lets through, and it buffers
    what a server sends without asking how much it may.
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
        with suppress(OSError):  # hang up at once: paramiko's thread is in a read, which would keep it open
            self.shutdown(socket.SHUT_RDWR)
        super().close()


def _ask(transport: ssh.Transport, order: dict[str, object], deadline: float) -> bytes:
    """Have `inner.py` do what `order` says, as root inside, and return what it printed."""
    return _run(transport, "exec sudo -n python3 -I -S -", program(order), deadline)


def program(order: dict[str, object]) -> bytes:
    """Return `inner.py` as a program that does what `order` says."""
    return files("sandbox").joinpath("inner.py").read_bytes() + f"main({order!r})\n".encode()


def _run(transport: ssh.Transport, command: str, told: bytes, deadline: float) -> bytes:
    """Run a command with `told` on its stdin, and return what it printed."""
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
