"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

if TYPE_CHECKING:
    from runner.sources import Source

KeeperSocket = Annotated[Path, typer.Option("--keeper", envvar="SANDBOX_KEEPER", help="The keeper's socket.")]
Addresses = Annotated[
    list[str] | None,
    typer.Option(
        "--address",
        envvar="RUNNER_ADDRESSES",
        help="USER@HOST:PORT of a sandbox that someone else started, in place of a keeper's; may be repeated.",
    ),
]
Identity = Annotated[
    Path | None, typer.Option(envvar="RUNNER_IDENTITY", help="Private key that the --address lets in.")
]
KnownHosts = Annotated[
    Path, typer.Option(envvar="RUNNER_KNOWN_HOSTS", help="Host keys of every --address, as ssh(1) keeps them.")
]
AddressState = Annotated[
    Path | None,
    typer.Option(envvar="RUNNER_ADDRESS_STATE", help="Folder for what is known of each --address, for all runners."),
]
Folder = Annotated[
    str | None,
    typer.Option(
        envvar="RUNNER_ADDRESS_FOLDER", help="Folder at the --address for jobs [default: /home/USER/runner-jobs]."
    ),
]
DEFAULT_KNOWN_HOSTS: Final = Path("~/.ssh/known_hosts").expanduser()
DEFAULT_LISTEN: Final = "127.0.0.1:8080"


def source_of(
    keeper: Path,
    address: list[str] | None,
    identity: Path | None,
    known_hosts: Path,
    address_state: Path | None,
    folder: str | None,
) -> Source:
    """Return what the options name: the keeper unless there is an address. Errors: BadJobError; InputError."""
    from runner import sources  # noqa: PLC0415 - what only talks to the service does not pay for SSH

    if not address:
        return sources.keeper(keeper)
    return sources.addresses(address, identity, known_hosts, address_state, folder)
