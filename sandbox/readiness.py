"""Proof that a sandbox is fit: a login with the pinned host key, a nonce echoed back, inner Docker on overlay2.

Everything is under one deadline, and everything the sandbox says is bounded and parsed as hostile: after root in it,
its sshd may be a job's.
"""

import io
import json
import logging
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from importlib.resources import files

import paramiko

from sandbox.errors import Fault, SandboxFault
from sandbox.identity import Identity
from sandbox.template import LOGIN_USER
from sandbox.text import one_line

STORAGE_DRIVER = "overlay2"
BUILD_CACHE = 5 * 1024**3
"""Bytes of inner build cache that are kept for later jobs of the same trust key."""
_MAX_ANSWER = 64 * 1024
_MAX_RECEIVED = 512 * 1024
_TOO_LATE = "It did not finish its answer to the probe in time."
_CONNECT_RETRY = 0.02

# Its messages are about hostile or half-booted peers; we raise those as faults with our own words.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


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


Dial = Callable[[], socket.socket]
"""Connects to a sandbox's port 22."""
Patience = Callable[[], None]
"""Called between two tries while a sandbox boots; raises when there is nothing to wait for any more."""


def connect(address: str, deadline: float, patience: Patience | None = None) -> socket.socket:
    """Connect to a sandbox's port 22 before the monotonic time `deadline`; with `patience`, try again until then.

    Raises `SandboxFault` (`ssh-dead`), or what `patience` raises.
    """
    while True:
        remaining = deadline - time.monotonic()
        try:
            return socket.create_connection((address, 22), timeout=max(0.01, remaining))
        except OSError as error:
            if patience is None or remaining <= 0:
                raise SandboxFault(Fault.SSH_DEAD, f"Nothing answers on its SSH port: {error}.") from error
        patience()
        time.sleep(_CONNECT_RETRY)  # nothing tells when another machine's port opens


def prove(dial: Dial, identity: Identity, deadline: float, cleaning: Cleaning | None = None) -> Proof:
    """Prove readiness before the monotonic time `deadline`, after `cleaning`.

    Raises `SandboxFault` with the kind of what was found.
    """
    with closing(_Bounded(dial(), deadline)) as sock, closing(_login(sock, identity, deadline)) as transport:
        nonce = secrets.token_hex(16)
        answer = _ask(
            transport,
            {
                "nonce": nonce,
                "clean": {"folders": dict(cleaning.folders), "build_cache": cleaning.build_cache} if cleaning else None,
                # It gives up before we do: that its Docker is dead is a better answer than none.
                "seconds": max(0.0, (deadline - time.monotonic()) * 0.8),
            },
            deadline,
        )
    return _judge(answer, nonce)


def run(dial: Dial, identity: Identity, script: bytes, deadline: float) -> bytes:
    """Log in before the monotonic time `deadline`, and return what `sh` printed for the script, a bounded answer.

    Raises `SandboxFault`.
    """
    with closing(_Bounded(dial(), deadline)) as sock, closing(_login(sock, identity, deadline)) as transport:
        return _run(transport, "exec sh -s", script, deadline)


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


def _login(sock: socket.socket, identity: Identity, deadline: float) -> paramiko.Transport:
    transport = paramiko.Transport(sock)
    transport.banner_timeout = transport.auth_timeout = transport.handshake_timeout = _left(deadline)
    try:
        transport.start_client(timeout=_left(deadline))
        _check_host_key(transport, identity)
        transport.auth_publickey(LOGIN_USER, _private_key(identity))
    except paramiko.AuthenticationException as error:
        alive = transport.is_active() and time.monotonic() < deadline
        transport.close()
        if not alive:  # paramiko calls that, too, a failed authentication
            raise SandboxFault(Fault.SSH_DEAD, "Its sshd hung or hung up in the middle of a login.") from error
        raise SandboxFault(Fault.LOGIN_REFUSED, "Its sshd refused the key that it was made with.") from error
    except (paramiko.SSHException, EOFError, OSError) as error:
        transport.close()
        raise SandboxFault(Fault.SSH_DEAD, f"Its sshd accepted a connection but no login: {_words(error)}.") from error
    except SandboxFault:
        transport.close()
        raise
    return transport


def _check_host_key(transport: paramiko.Transport, identity: Identity) -> None:
    shown = transport.get_remote_server_key()
    pinned = identity.host.public.split()[1]
    if shown.get_base64() != pinned:
        raise SandboxFault(
            Fault.HOST_KEY_CHANGED,
            "Its sshd shows another host key than the one it was made with: it is not ours any more.",
        )


def _private_key(identity: Identity) -> paramiko.Ed25519Key:
    return paramiko.Ed25519Key.from_private_key(io.StringIO(identity.client.private))


def _ask(transport: paramiko.Transport, order: dict[str, object], deadline: float) -> bytes:
    """Run `inner.py` as root inside, with `order` on its stdin, and return what it printed."""
    program = files("sandbox").joinpath("inner.py").read_bytes()
    bootstrap = "import sys;n=int(sys.stdin.buffer.readline());exec(sys.stdin.buffer.read(n))"
    told = b"%d\n" % len(program) + program + json.dumps(order).encode()
    return _run(transport, f"exec sudo -n python3 -I -S -c '{bootstrap}'", told, deadline)


def _run(transport: paramiko.Transport, command: str, told: bytes, deadline: float) -> bytes:
    """Run a command with `told` on its stdin, and return what it printed."""
    try:
        channel = transport.open_session(timeout=_left(deadline))
        channel.settimeout(_left(deadline))
        channel.exec_command(command)
        channel.sendall(told)
        channel.shutdown_write()
        answer = _read_all(channel)
    except (paramiko.SSHException, EOFError, OSError) as error:
        if time.monotonic() >= deadline:
            raise SandboxFault(Fault.PROBE_FAILED, _TOO_LATE) from error
        raise SandboxFault(Fault.PROBE_FAILED, f"A login worked but nothing could be run: {_words(error)}.") from error
    if time.monotonic() >= deadline:
        raise SandboxFault(Fault.PROBE_FAILED, _TOO_LATE)
    return answer


def _read_all(channel: paramiko.Channel) -> bytes:
    answer = bytearray()
    while chunk := channel.recv(4096):
        answer += chunk
        if len(answer) > _MAX_ANSWER:
            raise SandboxFault(Fault.PROBE_FAILED, "It answered the probe with more than any probe prints.")
    return bytes(answer)


def _judge(answer: bytes, nonce: str) -> Proof:
    try:
        facts = json.loads(answer)
        echoed, docker, error = facts["nonce"], facts["docker"], facts["error"]
        driver, version = (docker["driver"], docker["version"]) if docker else (None, "")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise SandboxFault(
            Fault.PROBE_FAILED, "Its answer to the probe makes no sense; its Python may be broken."
        ) from None
    if echoed != nonce:
        raise SandboxFault(Fault.PROBE_FAILED, "It did not echo the nonce it was given: something else answers for it.")
    if docker is None:
        raise SandboxFault(Fault.DOCKER_DEAD, f"Its Docker Engine does not answer: {_words(error)}.")
    if driver != STORAGE_DRIVER:
        raise SandboxFault(
            Fault.WRONG_STORAGE_DRIVER, f"Its Docker Engine is on {_words(driver)} instead of {STORAGE_DRIVER}."
        )
    if error is not None:
        raise SandboxFault(Fault.PROBE_FAILED, f"It could not be cleaned: {_words(error)}.")
    return Proof(docker_version=_words(version))


def _words(thing: object) -> str:
    """Somebody else's text for a sentence of ours: one line, printable, short."""
    return one_line(str(thing))[:200].strip() or type(thing).__name__


def _left(deadline: float) -> float:
    return max(0.01, deadline - time.monotonic())
