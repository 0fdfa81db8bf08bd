"""What the keeper can see of its host that a sandbox has to follow."""

import resource
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

_DEFAULT_MTU = 1500
_RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""The second is where systemd-resolved tells whom it asks, when the first names only it (systemd-resolved(8))."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Bounds and addresses that come from the host."""

    nofile_ceiling: int
    """The most open files that a process of this engine can be granted."""
    mtu: int
    """Bytes in a packet on the way out. A sandbox that sends larger ones stalls where ICMP is filtered."""
    nameservers: tuple[IPv4Address, ...]
    """For a sandbox and its inner Docker Engine, which cannot pass on the resolver of a user-defined network (it is on
    loopback)."""


def look() -> HostFacts:
    """Look at the host that the keeper runs on. It shares the host's network, and its engine's limits."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return HostFacts(
        nofile_ceiling=hard if hard != resource.RLIM_INFINITY else 1024**3,
        mtu=_uplink_mtu(Path("/proc/net/route"), Path("/sys/class/net")),
        nameservers=next(filter(None, map(_nameservers, _RESOLVERS)), ()),
    )


def _uplink_mtu(routes: Path, interfaces: Path) -> int:
    """The MTU of the interface with the default route; the usual one where there is none."""
    with suppress(OSError, ValueError):
        for line in routes.read_text().splitlines()[1:]:
            interface, destination, *_ = line.split()
            if destination == "00000000":
                return int((interfaces / interface / "mtu").read_text())
    return _DEFAULT_MTU


def _nameservers(configuration: Path) -> tuple[IPv4Address, ...]:
    """The resolvers that answer from elsewhere than this host's loopback, which a sandbox cannot reach."""
    found = []
    with suppress(OSError):
        for words in map(str.split, configuration.read_text(errors="replace").splitlines()):
            if words[:1] == ["nameserver"]:
                with suppress(ValueError, IndexError):
                    found.append(IPv4Address(words[1]))
    return tuple(address for address in found if not address.is_loopback)


def boot_id() -> str:
    """The id of this boot of the host: another one means that nothing which ran before runs any more."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
