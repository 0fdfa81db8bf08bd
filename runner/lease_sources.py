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
    """A source of leases, and the settings that depend on it."""

    leases: LeaseSource
    ready: Callable[[str], Awaitable[int]] | None
    """Returns how many sandboxes of a profile are ready and not leased; None if none is leased in advance."""
    folder: str | None
    """The runner's folder in the sandboxes; None for the folders of the sandbox image."""
    sandboxes: Callable[[], Awaitable[Sequence[SandboxFacts]]]
    """Returns the facts of every sandbox. Errors: LeaseError."""
    metrics: Callable[[], Awaitable[str]] | None = None
    """Returns the keeper's metrics in Prometheus's text format; None without a keeper."""

    def adapt(self, settings: Settings) -> Settings:
        """Return the settings with the folders of these sandboxes."""
        if self.folder is None:
            return settings
        return replace(settings, workspace=f"{self.folder}/workspace", attempts=f"{self.folder}/attempts")


def keeper(socket: Path) -> Source:
    """Return the keeper of this host as a source."""
    leases = KeeperLeases(socket)
    return Source(leases, leases.ready, None, leases.sandboxes, leases.metrics)


def addresses(
    texts: Sequence[str], identity: Path | None, known_hosts: Path, state: Path | None, folder: str | None
) -> Source:
    """Return the addresses of the command line as a source. Errors: BadJobError; InputError."""
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
    """Return the folder for the records of addresses: one for all of root's runners, one for each other user's."""
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
