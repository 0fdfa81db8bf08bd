"""One leased sandbox, in which the programs run that the runner sends there."""

from __future__ import annotations

import io
import secrets
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import paramiko
from paramiko.channel import Channel

from sandbox.keeper import protocol
from tests.e2e.conftest import Keeper

DEADLINE = 120.0
BUILDS = "/home/sandbox/builds"
CONFIG = "/home/sandbox/docker-config"

_IMAGES = """\
mkdir -p tree/bin tree/etc tree/tmp tree/usr/local/bin && cp /bin/busybox tree/bin/
for command in sh ls cat id sleep echo stat env nc wc touch hostname ps mkdir readlink; do
    ln -s busybox tree/bin/$command
done
printf 'root:x:0:0::/:/bin/sh\\nworker:x:1234:1234::/:/bin/sh\\n' >tree/etc/passwd
tar -c -C tree . >tree.tar
docker import - box:1 <tree.tar
docker import -c 'USER worker' - worker:1 <tree.tar
docker import -c 'ENTRYPOINT ["/bin/echo", "the entrypoint got"]' - echoes:1 <tree.tar
docker import -c 'EXPOSE 7/tcp' -c 'CMD ["nc", "-ll", "-p", "7", "-e", "echo", "hello"]' - hello/server:1 <tree.tar
docker import -c 'EXPOSE 9/tcp' -c 'CMD ["sh", "-c", "echo about to fail; exit 3"]' - broken:1 <tree.tar
printf 'FROM scratch\\nCOPY tree.tar /\\n' | docker build -q -t shell-less:1 -f - . >/dev/null
"""
"""An image of busybox alone, with what its name says."""


@dataclass
class Lab:
    """A sandbox and the way into it."""

    transport: paramiko.Transport

    def start(self, script: bytes) -> Channel:
        """Start a script as the launcher would: as a file, in a process group of its own. Its pid is its first line."""
        path = f"/tmp/script-{uuid.uuid4().hex}"
        self.put(script, path)
        channel = self.transport.open_session()
        channel.settimeout(DEADLINE)
        channel.set_combine_stderr(True)
        channel.exec_command(
            f"DOCKER_CONFIG={CONFIG} setsid --wait bash -c 'echo $$; exec {path} </dev/null' </dev/null"
        )
        return channel

    def put(self, program: bytes, path: str) -> None:
        """Have a program as a file."""
        receive = self.transport.open_session()
        receive.settimeout(DEADLINE)
        receive.exec_command(f"cat >{path} && chmod 700 {path}")
        receive.sendall(program)
        receive.shutdown_write()
        assert receive.recv_exit_status() == 0

    def run(self, script: bytes) -> tuple[int, str]:
        """Return a script's exit code and what it wrote."""
        return finish(self.start(script))

    def bash(self, script: str) -> str:
        """Return what a script wrote that must succeed."""
        code, output = self.run(b"#!/bin/bash\nset -eo pipefail\n" + script.encode())
        assert code == 0, output
        return output


def pid(channel: Channel) -> int:
    """Return the process id of what was started."""
    line = b""
    while not line.endswith(b"\n"):
        line += channel.recv(1)
    return int(line)


def read_until(channel: Channel, wanted: str) -> str:
    """Return what was written up to some words."""
    seen = b""
    while wanted.encode() not in seen:
        piece = channel.recv(4096)
        assert piece, seen
        seen += piece
    return seen.decode()


def finish(channel: Channel, *, began: bool = False) -> tuple[int, str]:
    """Return the exit code and the rest of what was written."""
    if not began:
        pid(channel)
    output = b"".join(iter(lambda: channel.recv(65536), b""))
    return channel.recv_exit_status(), output.decode()


@contextmanager
def lent(keeper: Keeper) -> Iterator[Lab]:
    """Lend a sandbox that has the tests' images."""
    token = secrets.token_urlsafe(24)
    request = protocol.Lend(
        attempt=uuid.uuid4().hex, token=token, profile="default", trust_key="gitlab-test", wait=60, patience=3600
    )
    grant, connection = keeper.client.lend(request)
    keeper.client.renew(token)
    try:
        with connection, _login(grant, connection) as transport:
            lab = Lab(transport)
            lab.bash(f"cd $(mktemp -d)\n{_IMAGES}")
            yield lab
    finally:
        keeper.client.give_back(token, used=True)


@contextmanager
def _login(grant: protocol.LeaseGrant, connection: socket.socket) -> Iterator[paramiko.Transport]:
    kind, _, rest = grant.host_key.partition(" ")
    transport = paramiko.Transport(connection)
    transport.start_client(timeout=30)
    assert f"{transport.get_remote_server_key().get_name()} {transport.get_remote_server_key().get_base64()}" == (
        f"{kind} {rest.split()[0]}"
    )
    transport.auth_publickey(grant.user, paramiko.Ed25519Key.from_private_key(io.StringIO(grant.client_key)))
    yield transport
    transport.close()
