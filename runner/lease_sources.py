"""Which source of leases a command uses: a keeper, or sandboxes that someone else started, by their addresses."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from runner.address_leases import AddressLeases
from runner.addresses import ssh
from runner.addresses.address import Address
from runner.errors import BadJobError
from runner.execution.lease import LeaseSource, SandboxFacts
from runner.execution.options import Settings
from runner.keeper_leases import KeeperLeases


@dataclass(frozen=True)
class Source:
    """Where leases come from, and what follows from that."""

    leases: LeaseSource
    ready: Callable[[str], Awaitable[int]] | None
    """Tells how many sandboxes of a profile nobody has leased; None where none is leased in advance."""
    folder: str | None
    """The folder in the sandboxes for what is the runner's; None for the sandbox image's own places."""
    sandboxes: Callable[[], Awaitable[Sequence[SandboxFacts]]]
    """Tells of every sandbox. Errors: LeaseError."""
    metrics: Callable[[], Awaitable[str]] | None = None
    """Tells what the keeper measures, in Prometheus's text format; None without a keeper."""

    def adapt(self, settings: Settings) -> Settings:
        """Return the settings with the places that these sandboxes have."""
        if self.folder is None:
            return settings
        return replace(settings, workspace=f"{self.folder}/workspace", attempts=f"{self.folder}/attempts")


def keeper(socket: Path) -> Source:
    """The keeper of this host."""
    leases = KeeperLeases(socket)
    return Source(leases, leases.ready, None, leases.sandboxes, leases.metrics)


def addresses(
    texts: Sequence[str], identity: Path | None, known_hosts: Path, state: Path | None, folder: str | None
) -> Source:
    """Sandboxes by address, as the command line names them. Errors: BadJobError; InputError."""
    places = [_address(text) for text in texts]
    if identity is None:
        raise BadJobError("--address needs --identity FILE: the private key that the sandboxes let in.")
    folder = _folder(places, folder)
    host_keys = ssh.read_known_hosts(known_hosts, places)
    leases = AddressLeases(
        places, host_keys, ssh.read_identity(identity), state or default_state(), f"{folder}/attempts"
    )
    return Source(leases, None, folder, leases.sandboxes)


def default_state() -> Path:
    """Where it is kept what is known of addresses: for all of root's runners, or for all of one user's."""
    if os.geteuid() == 0:
        return Path("/var/lib/runner/addresses")
    home = os.environ.get("XDG_STATE_HOME")  # https://specifications.freedesktop.org/basedir-spec
    return (Path(home) if home else Path.home() / ".local/state") / "runner/addresses"


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise BadJobError(f"The address {text[:80]!r} {error}.") from None


def _folder(places: Sequence[Address], given: str | None) -> str:
    users = {place.user for place in places}
    if given is None and len(users) > 1:
        raise BadJobError(
            f"The addresses have several users ({', '.join(sorted(users))}), and --folder is in a user's home "
            "unless it is given. Give one that all of them may make and write."
        )
    folder = (given or f"/home/{users.pop()}/runner-jobs").rstrip("/")
    if not folder.startswith("/") or not folder.isprintable():
        raise BadJobError(
            f"--folder {given!r} is not possible. Give an absolute path below /; its `workspace` is emptied."
        )
    return folder
