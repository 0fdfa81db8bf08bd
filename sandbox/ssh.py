"""Logs in to a sandbox, with its host key pinned. The only module of this package that knows paramiko.

Any failure is a `SandboxFault` that says what was seen, or `LOST` where only the caller knows what it means. paramiko
takes longer to import than all of our code, so the import waits until somebody logs in: see `load`.
"""

from __future__ import annotations

import io
import logging
import socket
import threading
import time
from importlib import import_module
from typing import TYPE_CHECKING, Final

from sandbox.errors import Fault, SandboxFault
from sandbox.template import LOGIN_USER
from sandbox.text import one_line

if TYPE_CHECKING:
    import paramiko

    Channel = paramiko.Channel
    Transport = paramiko.Transport
    LOST: Final = (paramiko.SSHException, EOFError, OSError)
    """The errors of a transport or channel whose other side went away, or does not speak SSH."""

# paramiko logs about hostile or half-booted peers; we report those as faults in our own words.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)


def __getattr__(name: str) -> object:
    if name == "LOST":
        return _lost()
    if name in ("Channel", "Transport"):
        return getattr(import_module("paramiko"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load() -> None:
    """Import paramiko in the background, best while the caller waits for the engine or the keeper."""
    threading.Thread(target=import_module, args=("paramiko",), name="import paramiko").start()


def login(sock: socket.socket, host_key: str, client_key: str, deadline: float) -> Transport:
    """Log in over `sock` by the monotonic `deadline`, only to the sandbox with this public `host_key`.

    `client_key` is the private key, PEM. Raises `SandboxFault`: `ssh-dead`, `host-key-changed` or `login-refused`.
    """
    import paramiko  # noqa: PLC0415 - see above

    transport = paramiko.Transport(sock)
    transport.banner_timeout = transport.auth_timeout = transport.handshake_timeout = left(deadline)
    try:
        transport.start_client(timeout=left(deadline))
        _check_host_key(transport, host_key)
        transport.auth_publickey(LOGIN_USER, paramiko.Ed25519Key.from_private_key(io.StringIO(client_key)))
    except paramiko.AuthenticationException as error:
        alive = transport.is_active() and time.monotonic() < deadline
        transport.close()
        if not alive:  # paramiko reports this as a failed authentication, too
            raise SandboxFault(Fault.SSH_DEAD, "Its sshd hung or hung up in the middle of a login.") from error
        raise SandboxFault(Fault.LOGIN_REFUSED, "Its sshd refused the key that it was made with.") from error
    except _lost() as error:
        transport.close()
        raise SandboxFault(Fault.SSH_DEAD, f"Its sshd accepted a connection but no login: {words(error)}.") from error
    except SandboxFault:
        transport.close()
        raise
    return transport


def _check_host_key(transport: Transport, host_key: str) -> None:
    if transport.get_remote_server_key().get_base64() != host_key.split()[1]:
        raise SandboxFault(
            Fault.HOST_KEY_CHANGED,
            "Its sshd shows another host key than the one it was made with: it is not ours any more.",
        )


def _lost() -> tuple[type[BaseException], ...]:
    return (import_module("paramiko").SSHException, EOFError, OSError)


def words(thing: object) -> str:
    """Make foreign text fit for a sentence of ours: one line, printable, short."""
    return one_line(str(thing))[:200].strip() or type(thing).__name__


def left(deadline: float) -> float:
    """Seconds until the monotonic `deadline`, as a timeout: at least 0.01."""
    return max(0.01, deadline - time.monotonic())
