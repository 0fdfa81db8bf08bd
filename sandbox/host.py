"""The facts about the keeper's host that a sandbox must follow."""

import resource
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

_DEFAULT_MTU = 1500
_RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""The second file has systemd-resolved's servers, when the first names only systemd-resolved (systemd-resolved(8))."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Limits and addresses of the host."""

    nofile_ceiling: int
    """The most open files that this engine can give a process."""
    mtu: int
    """Bytes of a packet on the way out. Where ICMP is filtered, a sandbox that sends larger ones stalls."""
    nameservers: tuple[IPv4Address, ...]
    """For a sandbox and its inner Docker Engine, which cannot pass on a user-defined network's resolver, as it is on
    loopback."""


def look() -> HostFacts:
    """Look at the keeper's host. The keeper shares the host's network, and its engine's limits."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return HostFacts(
        nofile_ceiling=hard if hard != resource.RLIM_INFINITY else 1024**3,
        mtu=_uplink_mtu(Path("/proc/net/route"), Path("/sys/class/net")),
        nameservers=next(filter(None, map(_nameservers, _RESOLVERS)), ()),
    )


def _uplink_mtu(routes: Path, interfaces: Path) -> int:
    """Return the MTU of the interface with the default route; the usual one without such a route."""
    with suppress(OSError, ValueError):
        for line in routes.read_text().splitlines()[1:]:
            interface, destination, *_ = line.split()
            if destination == "00000000":
                return int((interfaces / interface / "mtu").read_text())
    return _DEFAULT_MTU


def _nameservers(configuration: Path) -> tuple[IPv4Address, ...]:
    """Return the resolvers off this host's loopback, which a sandbox cannot reach."""
    found = []
    with suppress(OSError):
        for words in map(str.split, configuration.read_text(errors="replace").splitlines()):
            if words[:1] == ["nameserver"]:
                with suppress(ValueError, IndexError):
                    found.append(IPv4Address(words[1]))
    return tuple(address for address in found if not address.is_loopback)


def boot_id() -> str:
    """Return the id of the host's boot: under another one, nothing from before still runs."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
