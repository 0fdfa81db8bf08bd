"""Subnets for the sandboxes' own bridge networks. Pure.

Each sandbox has its own bridge, so that no two share a wire. Docker's built-in address pools run out at about thirty
networks; the keeper therefore gives each network a small subnet from one range.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

from sandbox.errors import ConfigError

SUBNET_PREFIX = 29
"""Six addresses: the gateway, the sandbox, and room for addresses that an engine reserves."""


def free_subnet(range_: IPv4Network, taken: Iterable[IPv4Network], after: int) -> IPv4Network:
    """Return the first subnet of `range_`, counted from number `after`, that overlaps nothing in `taken`.

    Starting at a moving `after` (the generation) avoids handing out an address that was in use a moment ago.
    Raises `ConfigError` when the range is full.
    """
    blocked = [network for network in taken if network.overlaps(range_)]
    total = 1 << (SUBNET_PREFIX - range_.prefixlen)
    step = 1 << (32 - SUBNET_PREFIX)
    for offset in range(total):
        address = int(range_.network_address) + ((after + offset) % total) * step
        candidate = IPv4Network((address, SUBNET_PREFIX))
        if not any(candidate.overlaps(network) for network in blocked):
            return candidate
    raise ConfigError(f"No subnet is left in the network range {range_}; give the keeper a larger `network_range`.")


def subnet_of(address: IPv4Address) -> IPv4Network:
    """Return the subnet of a sandbox with this address."""
    return IPv4Network((address, SUBNET_PREFIX), strict=False)
