"""What a sandbox may reach: `internet` or `none`, with openings and closings by name. Pure.

The keeper's file defines the names and a profile lists them. So a profile reads like its purpose
(`open = ["registry"]`), and each address stands in one place.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from typing import Annotated, ClassVar, NamedTuple

from pydantic import BeforeValidator, Field, field_serializer, field_validator

from sandbox.profile import Network, Profile
from sandbox.settings.model import Section

DNS_PORT = 53
_PORTS = range(1, 65536)
_WRITTEN_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")


class Protocol(StrEnum):
    """The protocols that have ports."""

    TCP = "tcp"
    UDP = "udp"


class PortRange(NamedTuple):
    """The ports from `first` to `last`, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def _network(value: object) -> object:
    if isinstance(value, str):
        if ":" in value:
            raise ValueError("is IPv6, which sandboxes do not have: nothing is open there")
        try:
            return IPv4Network(value)
        except ValueError as error:
            raise ValueError(f"must be an address or a range such as 10.1.0.0/16, and no name: {error}") from None
    return value


def _port_range(value: object) -> object:
    if isinstance(value, PortRange):
        return value
    if not isinstance(value, bool) and (written := _WRITTEN_PORTS.fullmatch(str(value))):
        first, last = int(written[1]), int(written[2] or written[1])
        if first in _PORTS and last in _PORTS and first <= last:
            return PortRange(first, last)
    raise ValueError("must be a port from 1 to 65535 or a range such as '8000-8010'")


class Destination(Section):
    """Addresses, and which protocol and ports there. With neither, everything is meant, ping included."""

    live: ClassVar = True

    to: Annotated[tuple[Annotated[IPv4Network, BeforeValidator(_network)], ...], Field(min_length=1)]
    """Addresses and ranges. Kept sorted and without overlap, as nftables asks."""

    protocol: Protocol | None = None
    """Only this protocol. Without it, `ports` count for both, which is what a port alone usually means."""

    ports: tuple[Annotated[PortRange, BeforeValidator(_port_range)], ...] = ()
    """Only these ports. Kept sorted and without overlap. None: all of them, since an address is usually one service."""

    @field_validator("to")
    @classmethod
    def _collapse(cls, value: tuple[IPv4Network, ...]) -> tuple[IPv4Network, ...]:
        return tuple(collapse_addresses(value))

    @field_validator("ports")
    @classmethod
    def _merge(cls, value: tuple[PortRange, ...]) -> tuple[PortRange, ...]:
        merged: list[PortRange] = []
        for ports in sorted(value):
            if merged and ports.first <= merged[-1].last + 1:
                merged[-1] = PortRange(merged[-1].first, max(merged[-1].last, ports.last))
            else:
                merged.append(ports)
        return tuple(merged)

    @field_serializer("ports", when_used="json")
    def _write_ports(self, value: tuple[PortRange, ...]) -> list[str]:
        return [str(ports) for ports in value]

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """Return the protocols that are meant; empty means every protocol."""
        if self.protocol is not None:
            return (self.protocol,)
        return tuple(Protocol) if self.ports else ()


READY_MADE_CLOSINGS: Mapping[str, Destination] = {
    # RFC 1918 and, for providers' own networks, RFC 6598.
    "private": Destination(
        to=tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")))
    )
}
"""Closings that need no definition. A closing of the same name in the keeper's file replaces the one here."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What one profile's sandboxes may reach. An opening counts more than any closing."""

    network: Network
    open: tuple[Destination, ...] = ()
    close: tuple[Destination, ...] = ()


def policy(
    profile: Profile,
    openings: Mapping[str, Destination],
    closings: Mapping[str, Destination],
    resolvers: Iterable[IPv4Address],
) -> Policy:
    """Return the policy of a profile, with its names looked up.

    `resolvers` are the host's name servers. With `internet`, a sandbox may ask them wherever they are: in a closed
    range, on the host itself, or at a cloud's link-local address.
    Raises `ValueError` naming the field when a name is not defined.
    """
    opened = _named("open", profile.open, openings)
    closed = _named("close", profile.close, {**READY_MADE_CLOSINGS, **closings})
    servers = tuple(IPv4Network(server) for server in resolvers)
    if servers and profile.network is Network.INTERNET:
        opened = (Destination(to=servers, ports=(PortRange(DNS_PORT, DNS_PORT),)), *opened)
    return Policy(profile.network, opened, closed)


def _named(field: str, names: Iterable[str], defined: Mapping[str, Destination]) -> tuple[Destination, ...]:
    if unknown := [name for name in names if name not in defined]:
        table = "openings" if field == "open" else "closings"
        known = ", ".join(defined) or "none"
        raise ValueError(f"{field}: {', '.join(unknown)} is not defined under [{table}]; what is: {known}")
    return tuple(defined[name] for name in names)
