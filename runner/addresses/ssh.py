"""Reads keys from OpenSSH's files, and runs one program to its end over its own session. Uses asyncssh."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import secrets
import shlex
import socket
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import asyncssh

from runner.addresses.address import Address
from runner.addresses.record import Look, look_from_json
from runner.errors import ConnectError, InputError, ProtocolError, SandboxError
from runner.execution import wire
from runner.execution.lease import Access
from runner.execution.options import DEFAULTS
from runner.execution.session import connect, translated

DIAL_DEADLINE: Final = 10.0
ERRAND_DEADLINE: Final = 40.0
"""Seconds for a connection, and for a whole errand including its login."""
_SECONDS_INSIDE: Final = 25.0
"""Seconds of these that the program in the sandbox may take."""
_MAX_ANSWER: Final = 4 * 1024 * 1024
_MAX_DIAGNOSIS: Final = 2000
_MAX_FILE: Final = 4 * 1024 * 1024
_PYTHON: Final = (3, 11)
"""The oldest Python that the launcher runs on."""
_PROGRAM: Final = resources.files("runner.addresses").joinpath("inside.py").read_bytes()
_BOOTSTRAP: Final = "import sys;n=int(sys.stdin.buffer.readline());exec(sys.stdin.buffer.read(n))"
# As root where possible: only root sees and ends what a job did as root.
_SCRIPT: Final = f"""\
if sudo -n true </dev/null 2>/dev/null; then as='sudo -n'; else as=; fi
exec $as python3 -I -S -c '{_BOOTSTRAP}'
"""
_COMMAND: Final = f"exec sh -c {shlex.quote(_SCRIPT)}"
_Target = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
"""One address that a name resolves to, as getaddrinfo returns it."""
_PREFERRED: Final = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")
"""The kinds of host keys, the best first."""


def read_identity(path: Path) -> str:
    """Return the private key in a file. Errors: InputError when the key cannot be read or used."""
    text = _read(path, "--identity")
    try:
        asyncssh.import_private_key(text)
    except (asyncssh.KeyImportError, ValueError) as error:  # the format decides which of the two a passphrase raises
        if isinstance(error, asyncssh.KeyEncryptionError) or "assphrase" in str(error):
            raise InputError(
                f"The key {path} has a passphrase, and nobody is there to type it. Give one without: "
                "ssh-keygen -t ed25519 -N '' -f FILE."
            ) from None
        raise InputError(f"{path} holds no private key. Give the file without .pub that ssh-keygen made.") from None
    return text


def read_known_hosts(path: Path, addresses: Sequence[Address]) -> list[str]:
    """Return the one host key that each address must show, in the format of a `.pub` file.

    Errors: InputError when the file cannot be read or lacks a key: a key that nobody compared is not trusted.
    """
    try:
        known = asyncssh.import_known_hosts(_read(path, "--known-hosts"))
        return [_pinned(known, path, address) for address in addresses]
    except ValueError as error:
        raise InputError(f"{path} is not a known_hosts file: {wire.clean(str(error))}.") from None


def _pinned(known: asyncssh.SSHKnownHosts, path: Path, address: Address) -> str:
    port = None if address.port == 22 else address.port
    keys, authorities, revoked, *_ = known.match(address.host, "", port)
    usable = [key for key in keys if key not in revoked and key.get_algorithm() in _PREFERRED]
    if not usable:
        only = "only a certificate authority for" if authorities else "no usable key for"
        host = address.host
        raise InputError(
            f"{path} has {only} {address.known_as}, and a sandbox is only trusted by its own host key. Fetch it with "
            f"`ssh-keyscan -p {address.port} -t ed25519 {host} >>{path}`, and compare the fingerprint that "
            f"`ssh-keygen -lf {path}` prints with the one in the sandbox's log."
        )
    key = min(usable, key=lambda key: _PREFERRED.index(key.get_algorithm()))
    return key.export_public_key("openssh").decode().strip()


def _read(path: Path, option: str) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_FILE).decode()
    except OSError as error:
        raise InputError(f"{option} {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{option} {path} is not a text file.") from None


async def dial(address: Address) -> socket.socket:
    """Connect to an address. Errors: ConnectError, also after `DIAL_DEADLINE` seconds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + DIAL_DEADLINE
    try:
        async with asyncio.timeout_at(end):
            targets = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        return await _first(targets, end)
    except TimeoutError:
        raise ConnectError(f"Nothing answered there within {DIAL_DEADLINE:g} s.") from None
    except OSError as error:
        raise ConnectError(f"There is no way there: {_cause(error)}.") from error


async def _first(targets: Sequence[_Target], end: float) -> socket.socket:
    """Connect to the first target that answers. A silent target gets only its share of the time until `end`."""
    loop = asyncio.get_running_loop()
    last = OSError("it has no address")
    for number, target in enumerate(targets):
        try:
            async with asyncio.timeout((end - loop.time()) / (len(targets) - number)):
                return await _connect(target)
        except OSError as error:  # also a TimeoutError
            last = error
    raise last


async def _connect(target: _Target) -> socket.socket:
    family, kind, protocol, _, place = target
    connection = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, place)
    except BaseException:
        connection.close()
        raise
    return connection


def _cause(error: OSError) -> str:
    """Return the system's own words, which asyncio replaces by a tuple."""
    known = error.errno in errno.errorcode  # a resolver's errors have numbers of their own
    return os.strerror(error.errno or 0) if known else wire.clean(error.strerror or str(error))


async def look(access: Access) -> Look:
    """Log in and list what runs there. Owns the access. Errors: SandboxError says why no job can be sent there."""
    answer = await _errand(access, None, ())
    if error := wire.clean(str(answer["error"])):
        raise ProtocolError(f"It could not be looked at: {error}.")
    return _parsed(answer)


async def sweep(access: Access, before: Look, folders: Sequence[str]) -> None:
    """Log in, end everything that was not there before, remove the folders, and check that all is gone.

    Owns the access. Errors: SandboxError when something is left, or that cannot be known.
    """
    document = {"processes": before.processes, "docker": before.docker}
    answer = await _errand(access, document, folders)
    if left := answer["left"]:
        raise SandboxError(f"The job left what would not go: {wire.clean(str(left))}.")
    if error := wire.clean(str(answer["error"])):
        raise SandboxError(f"It could not be seen whether the job left something: {error}.")
    if _parsed(answer).boot_id != before.boot_id:
        raise SandboxError("Its host was restarted while the job ran.")


async def _errand(access: Access, before: Mapping[str, object] | None, folders: Sequence[str]) -> dict[str, Any]:
    nonce = secrets.token_hex(16)
    order = {"nonce": nonce, "before": before, "folders": folders, "seconds": _SECONDS_INSIDE}
    given = b"%d\n" % len(_PROGRAM) + _PROGRAM + json.dumps(order).encode()
    try:
        async with asyncio.timeout(ERRAND_DEADLINE):
            with translated(ConnectError):
                printed = await _run(access, given)
    except TimeoutError:
        raise ConnectError(f"It did not do what it was asked within {ERRAND_DEADLINE:g} s.") from None
    try:
        answer = json.loads(printed)
        if answer["nonce"] == nonce and {"python", "left", "error"} <= answer.keys():
            return _new_enough(answer)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    raise ProtocolError("Its answer makes no sense: its shell's start-up files may print something, or it is broken.")


async def _run(access: Access, given: bytes) -> bytes:
    """Run our program with a Python in the sandbox, and return its output."""
    try:
        connection = await connect(access, DEFAULTS)
    except asyncssh.PermissionDenied:
        raise ConnectError(
            f"It refused the login key, which is the one of --identity: let its public half in there, for the user "
            f"{access.user}."
        ) from None
    try:
        process = await connection.create_process(_COMMAND, encoding=None)
        process.stdin.write(given)
        process.stdin.write_eof()
        printed = bytearray()
        while piece := await process.stdout.read(64 * 1024):
            printed += piece
            if len(printed) > _MAX_ANSWER:
                raise ProtocolError(f"It answered with more than {_MAX_ANSWER} bytes.")
        said = await process.stderr.read(_MAX_DIAGNOSIS)
        await process.wait_closed()
    finally:
        connection.abort()
    if process.exit_status != 0:
        raise ConnectError(_without_python(process.exit_status, said))
    return bytes(printed)


def _without_python(status: int | None, said: bytes) -> str:
    if status == 127:
        return "It has no python3, which runs the scripts there. Install Python 3.11 or newer."
    detail = wire.clean(said.decode(errors="replace")[-wire.MAX_TEXT :])
    return f"A login works, but nothing can be run there (exit code {status}{': ' + detail if detail else ''})."


def _new_enough(answer: dict[str, Any]) -> dict[str, Any]:
    found = tuple(answer["python"])
    if found < _PYTHON:
        shown = wire.clean(".".join(map(str, found)))
        raise ConnectError(f"Its python3 is {shown}, and scripts need 3.11 or newer there.")
    return answer


def _parsed(answer: dict[str, Any]) -> Look:
    try:
        return look_from_json(answer["look"])
    except (LookupError, ValueError) as error:
        raise ProtocolError(f"What it says of itself makes no sense: {wire.clean(str(error))}.") from None
