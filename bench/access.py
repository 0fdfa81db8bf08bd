"""The sandbox under measurement: any reachable SSH server, given on the command line."""

from __future__ import annotations

import argparse
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from runner.execution.lease import Access
from runner.execution.options import DEFAULTS, Settings
from runner.placement import ONLY_DEFAULT, Profiles

NETNS = os.environ.get("DOCKER_NETNS")
WHERE = ["nsenter", f"--net={NETNS}"] if NETNS else []
"""Enters the network namespace of the engine's bridges, as any process that connects to a sandbox itself must."""


def openssh(folder: Path, port: int, user: str, host_key: str, client_key: Path) -> list[str]:
    """Return the command of OpenSSH's client, all but the sandbox's address. It ignores this user's own configuration.

    The host key is pinned by a file that is written into `folder`.
    """
    known = folder / "known_hosts"
    known.write_text(f"sandbox {host_key}")
    options = (f"UserKnownHostsFile={known}", "HostKeyAlias=sandbox", "StrictHostKeyChecking=yes", "BatchMode=yes")
    words = [word for option in options for word in ("-o", option)]
    return ["ssh", "-F", "none", "-i", str(client_key), "-p", str(port), "-l", user, *words]


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the sandbox's options."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--host", required=True, help="address of the sandbox")
    arguments.add_argument("--port", type=int, default=22)
    arguments.add_argument("--user", default="sandbox")
    arguments.add_argument("--host-key", type=Path, required=True, help="file with the sandbox's public host key")
    arguments.add_argument("--client-key", type=Path, required=True, help="file with the private key to log in with")
    arguments.add_argument("--workspace", default=DEFAULTS.workspace)
    arguments.add_argument(
        "--attempts", default=DEFAULTS.attempts, help="folder in the sandbox, one folder per attempt"
    )
    return arguments


@dataclass(frozen=True)
class Target:
    """One sandbox under measurement. A `LeaseSource` that only lends it, for ever."""

    arguments: argparse.Namespace

    def access(self) -> Access:
        """Return fresh access data."""
        given = self.arguments
        return Access(
            socket=socket.create_connection((given.host, given.port), timeout=10),
            user=given.user,
            host_key=given.host_key.read_text(),
            client_key=given.client_key.read_text(),
        )

    def settings(self) -> Settings:
        """Return settings with the sandbox's paths."""
        return Settings(workspace=self.arguments.workspace, attempts=self.arguments.attempts)

    async def profiles(self) -> Profiles:
        """See `LeaseSource.profiles`."""
        return ONLY_DEFAULT

    async def lend(
        self,
        attempt: str,
        token: str,  # noqa: ARG002
        profile: str,  # noqa: ARG002
        trust_key: str,  # noqa: ARG002
        wait: float,  # noqa: ARG002
        patience: float,  # noqa: ARG002
    ) -> TargetLease:
        """See `LeaseSource.lend`."""
        return TargetLease(attempt, self.access())

    async def resume(self, attempt: str, token: str) -> TargetLease:  # noqa: ARG002
        """See `LeaseSource.resume`."""
        return TargetLease(attempt, self.access())

    def handle(self, attempt: str, token: str) -> TargetLease:  # noqa: ARG002
        """See `LeaseSource.handle`."""
        return TargetLease(attempt, self.access())


@dataclass(frozen=True)
class TargetLease:
    """See `Lease`."""

    attempt: str
    access: Access
    sandbox: str = "measured"
    generation: int = 1
    runtime: str = "unknown"
    caveat: str = ""
    term: float = 3600.0

    async def renew(self) -> None:
        """Nothing to do."""

    async def kill(self) -> None:
        """Nothing to do."""

    async def give_back(self, *, used: bool) -> None:
        """Nothing to do."""

    async def condemn(self, reason: str) -> None:
        """Fail: a broken sandbox makes the measurement worthless."""
        raise SystemExit(f"The sandbox broke: {reason}")
