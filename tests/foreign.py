"""Sandboxes that someone else started: the image alone, as its README says, and the files for access to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import docker

from sandbox.identity import KeyPair, new_identity
from tests.images.started import Started

DOCKER_DATA = "/var/lib/docker"
PLAIN = """\
useradd --create-home --shell /bin/bash ci && usermod --password '*' ci
install -d -m 700 -o ci ~ci/.ssh && printf '%s\\n' "$AUTHORIZED_KEYS" >~ci/.ssh/authorized_keys
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/plain_key && mkdir -p /run/sshd
exec /usr/sbin/sshd -D -e -f /dev/null -h /etc/ssh/plain_key -p 2222
"""
"""A plain OpenSSH server for an ordinary user, on a machine without sudo rights or Docker."""


@dataclass
class Foreign:
    """One sandbox, and where it is."""

    started: Started
    user: str
    port: int
    host_key: str

    @property
    def address(self) -> str:
        return f"{self.user}@{self.started.address()}:{self.port}"

    @property
    def known(self) -> str:
        """Its line in `known_hosts`."""
        host = self.started.address()
        return f"{host if self.port == 22 else f'[{host}]:{self.port}'} {self.host_key}\n"

    def execute(self, command: str, user: str = "root") -> str:
        """Run a command from outside, and return what it printed."""
        printed: bytes = self.started.container.exec_run(["sh", "-c", command], user=user).output  # type: ignore[assignment]
        return printed.decode()

    def runs(self, command: str) -> bool:
        """Whether a process with this in its command line is there."""
        return command in self.execute("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")


@dataclass
class Foreigners:
    """Starts sandboxes that let one key in."""

    client: docker.DockerClient
    image: str
    runtime: str
    folder: Path
    key: KeyPair = field(default_factory=lambda: new_identity("test").client)
    made: list[Foreign] = field(default_factory=list)

    def start(self, **more: object) -> Foreign:
        """The sandbox image alone; `more` for the engine."""
        return self._start("sandbox", 22, "/var/lib/sandbox/ssh_host_ed25519_key.pub", **more)

    def start_plain(self) -> Foreign:
        """A plain OpenSSH server."""
        return self._start("ci", 2222, "/etc/ssh/plain_key.pub", entrypoint=["bash", "-ec", PLAIN])

    def _start(self, user: str, port: int, key_file: str, **more: object) -> Foreign:
        container = self.client.containers.run(  # type: ignore[call-overload]
            self.image,
            detach=True,
            runtime=self.runtime,
            environment={"AUTHORIZED_KEYS": self.key.public},
            volumes=[DOCKER_DATA],
            **more,
        )
        foreign = Foreign(Started(container, self.key.private), user, port, "")
        self.made.append(foreign)
        foreign.started.await_log("Server listening")
        foreign.host_key = " ".join(foreign.execute(f"cat {key_file}").split()[:2])
        return foreign

    def options(self, state: Path, *foreign: Foreign) -> list[str]:
        """What to tell `runner`."""
        identity, known = self.folder / "key", state.with_suffix(".known")
        if not identity.exists():
            identity.write_text(self.key.private)
        known.write_text("".join(one.known for one in foreign))
        addresses = [word for one in foreign for word in ("--address", one.address)]
        return [*addresses, "--identity", str(identity), "--known-hosts", str(known), "--address-state", str(state)]


@contextmanager
def foreigners(client: docker.DockerClient, image: str, runtime: str, folder: Path) -> Iterator[Foreigners]:
    """Removed at the end."""
    starter = Foreigners(client, image, runtime, folder)
    try:
        yield starter
    finally:
        for one in starter.made:
            one.started.remove()
