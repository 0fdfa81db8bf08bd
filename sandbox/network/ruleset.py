"""The walls as text for nft: the rules around each sandbox. Pure; `walls` loads the text.

Each installation has its own table, whose rules match the installation's bridges by their common prefix. A bridge of
this installation without a wall is closed completely.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from typing import TYPE_CHECKING, NamedTuple

from sandbox.network.policy import Policy
from sandbox.template import InstallationId, SandboxName

if TYPE_CHECKING:
    from jinja2 import Template

SSH_PORT = 22
END_MARK = "end of the walls"
"""The comment on the table's last rule: a table that shows it was not emptied."""

_TABLE_PREFIX = "sandbox_"

METADATA = tuple(
    map(
        IPv4Network,
        (
            "169.254.0.0/16",  # link-local (RFC 3927), where most clouds serve it
            "168.63.129.16/32",  # Azure's wire server
            "100.100.100.200/32",  # Alibaba Cloud
            "224.0.0.0/3",  # multicast and reserved: no hosts, and no way out either
        ),
    )
)


class Refusal(StrEnum):
    """Why a packet was dropped; one counter each. The values are stable: status and the table's counters carry them."""

    IPV6 = "ipv6"
    """It was not IPv4, the only protocol of a sandbox."""
    OPTIONS = "options"
    """It had IP options, source routing among them."""
    SPOOFED = "spoofed"
    """Its source was not the sandbox's own, or its bridge has no wall."""
    SANDBOX = "sandbox"
    """It was for another sandbox."""
    HOST = "host"
    """It was for the host: the gateway or any other of its addresses."""
    PUBLISHED = "published"
    """NAT changed its destination, as a published port does."""
    METADATA = "metadata"
    """It was for a cloud's metadata, another link-local address, or multicast."""
    NEIGHBOUR = "neighbour"
    """It was for another network of the engine."""
    CLOSED = "closed"
    """The profile closes its destination."""
    NONE = "none"
    """The profile has no network."""
    INBOUND = "inbound"
    """It was a call to the sandbox from elsewhere than the host, or belongs to no connection that the host knows."""


class Count(NamedTuple):
    """The packets and bytes that one refusal has dropped."""

    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Wall:
    """One sandbox: its own subnet, and what it may reach."""

    subnet: IPv4Network
    policy: Policy


def table_name(installation: InstallationId) -> str:
    """Return the name of this installation's own table."""
    return f"{_TABLE_PREFIX}{installation}"


def installation_of(table: str) -> InstallationId | None:
    """Return the installation that a table belongs to; None for a foreign table."""
    found = re.fullmatch(f"{_TABLE_PREFIX}([0-9a-f]{{8}})", table)
    return InstallationId(found[1]) if found else None


def bridge_prefix(installation: InstallationId) -> str:
    """Return the prefix that the names of all this installation's bridges share, and no other names."""
    return SandboxName(installation, 0).bridge.removesuffix("0")


def check_bridge(installation: InstallationId, bridge: str) -> None:
    """Raise `ValueError` for a bridge that is not this installation's."""
    prefix = bridge_prefix(installation)
    if not (bridge.startswith(prefix) and bridge.isalnum()):
        raise ValueError(f"The bridge {bridge} is none of this installation's, whose names begin with {prefix}.")


def render(
    installation: InstallationId,
    walls: Mapping[str, Wall],
    neighbours: Iterable[IPv4Network],
    counts: Mapping[Refusal, Count],
) -> str:
    """Return the transaction that replaces the table's rules by these, and continues its counters from `counts`.

    `walls` maps each bridge to its wall.
    """
    policies = list(dict.fromkeys(wall.policy for _, wall in sorted(walls.items())))
    return _template().render(
        table=table_name(installation),
        bridges=f"{bridge_prefix(installation)}*",
        ssh=SSH_PORT,
        end_mark=END_MARK,
        metadata=METADATA,
        refusals=list(Refusal),
        counts={why: counts.get(why, Count(0, 0)) for why in Refusal},
        sources=[(bridge, address) for bridge, wall in sorted(walls.items()) for address in _sources(wall.subnet)],
        neighbours=list(collapse_addresses(neighbours)),
        policies=policies,
        chains=[(bridge, policies.index(wall.policy) + 1) for bridge, wall in sorted(walls.items())],
    )


def _sources(subnet: IPv4Network) -> list[IPv4Address]:
    """Return the source addresses that a sandbox may use: all of its subnet except the gateway's."""
    _gateway, *own = subnet.hosts()
    return own


@cache
def _template() -> "Template":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - policies are read without it

    environment = Environment(
        loader=PackageLoader("sandbox"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - not HTML, and all values are our own
        keep_trailing_newline=True,
    )
    return environment.get_template("walls.nft.j2")
