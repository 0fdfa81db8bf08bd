"""A host with sandboxes, made of namespaces alone: no Docker, and everything an attacker could want to reach.

one ── bridge ─┐                       ┌─ outside: the internet, a local network, a cloud's metadata
               ├─ host ── uplink ──────┘
two ── bridge ─┤
               └─ br-other ── neighbour (another container, with a port that the host publishes)
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Network

from sandbox.network import Count, Destination, Policy, Refusal, Wall, Walls, WallState, policy
from sandbox.profile import Network, Profile
from sandbox.template import InstallationId, SandboxName
from tests.walls.namespaces import Namespace, new_namespace

INSTALLATION = InstallationId("0badcafe")
BRIDGE_ONE = SandboxName(INSTALLATION, 1).bridge
BRIDGE_TWO = SandboxName(INSTALLATION, 2).bridge

SUBNET_ONE, GATEWAY_ONE, ONE = IPv4Network("10.213.0.8/29"), "10.213.0.9", "10.213.0.10"
SUBNET_TWO, GATEWAY_TWO, TWO = IPv4Network("10.213.0.16/29"), "10.213.0.17", "10.213.0.18"
NEIGHBOURS, NEIGHBOUR_GATEWAY, NEIGHBOUR = IPv4Network("172.30.0.0/24"), "172.30.0.1", "172.30.0.2"
BRIDGES = [SUBNET_ONE, SUBNET_TWO, NEIGHBOURS]
"""The networks that an engine would have here."""
UPLINK, OUTSIDE = "198.51.100.1", "198.51.100.2"
INTERNET, LAN = "203.0.113.5", "192.168.77.7"
METADATA, ALIBABA = "169.254.169.254", "100.100.100.200"
GATEWAY_6, INTERNET_6 = "fd00:213::1", "fd00:77::1"

# linux/netlink.h and nfnetlink_conntrack.h: IPCTNL_MSG_CT_DELETE of subsystem 1, NLM_F_REQUEST and NLM_F_ACK
_NETLINK_NETFILTER = 12
_FLUSH_CONNECTIONS = (1 << 8 | 2, 1 | 4)

PUBLISHED_PORT, NEIGHBOUR_PORT = 8080, 80

OPEN = Policy(Network.INTERNET)
SHUT = Policy(Network.NONE)
CLOSED_LAN = policy(Profile(close=("private",)), {}, {}, [])


@dataclass
class Lab:
    """The namespaces, and the walls in the one that is the host."""

    host: Namespace
    one: Namespace
    two: Namespace
    neighbour: Namespace
    outside: Namespace
    walls: Walls

    def ensure(self, one: Policy = CLOSED_LAN, two: Policy = CLOSED_LAN) -> WallState:
        self.walls.put(BRIDGE_ONE, Wall(SUBNET_ONE, one))
        self.walls.put(BRIDGE_TWO, Wall(SUBNET_TWO, two))
        return self.host.call(lambda: self.walls.ensure(BRIDGES))

    def reset(self) -> None:
        """As it was, whatever a test flushed: no walls, no connections, and what the engine loads for its networks."""
        self.host.call(self.walls.remove)
        self.walls = Walls(INSTALLATION)
        self.host.run("nft", "-f", "-", given=_NAT)
        self.forget_connections()

    def count(self, why: Refusal) -> Count:
        return self.host.call(self.walls.counters)[why]

    def has_refused(self, why: Refusal, more_than: int) -> bool:
        return self.count(why).packets > more_than

    def forget_connections(self) -> None:
        """Empty the host's table of connections: a generic protocol's next packet would be an earlier one's answer."""
        message = struct.pack("=IHHIIBBH", 20, *_FLUSH_CONNECTIONS, 0, 0, 0, 0, 0)
        with self.host.call(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)) as sock:
            sock.sendto(message, (0, 0))
            _length, _type, _flags, _seq, _pid, error = struct.unpack_from("=IHHIIi", sock.recv(4096))
            assert error == 0

    def table(self) -> str:
        return self.host.run("nft", "--stateless", "list", "ruleset")


@contextmanager
def new_lab() -> Iterator[Lab]:
    """A lab without walls."""
    with ExitStack() as stack:
        host, one, two, neighbour, outside = (
            stack.enter_context(new_namespace(name)) for name in ("host", "one", "two", "neighbour", "outside")
        )
        host.sysctl("ipv4/ip_forward", 1)
        host.sysctl("ipv6/conf/all/forwarding", 1)
        _plug(host, BRIDGE_ONE, f"{GATEWAY_ONE}/29", one, f"{ONE}/29")
        _plug(host, BRIDGE_TWO, f"{GATEWAY_TWO}/29", two, f"{TWO}/29")
        _plug(host, "br-other", f"{NEIGHBOUR_GATEWAY}/24", neighbour, f"{NEIGHBOUR}/24")
        _link_outside(host, outside)
        host.ip(f"address add {GATEWAY_6}/64 dev {BRIDGE_ONE}")
        one.ip(f"address add fd00:213::2/64 dev eth0\nroute add default via {GATEWAY_6}")
        yield Lab(host, one, two, neighbour, outside, Walls(INSTALLATION))


def _plug(host: Namespace, bridge: str, gateway: str, guest: Namespace, address: str) -> None:
    """A bridge of the host's, and a namespace on it, as the Docker Engine does it."""
    port = f"v{bridge}"[:15]
    host.ip(
        f"link add {bridge} type bridge\n"
        f"address add {gateway} dev {bridge}\n"
        f"link set {bridge} up\n"
        f"link add {port} type veth peer name eth0 netns {guest.file.name}\n"
        f"link set {port} master {bridge} up\n"
    )
    guest.ip(
        f"address add {address} dev eth0\nlink set eth0 up\nroute add default via {gateway.partition('/')[0]} dev eth0"
    )


def _link_outside(host: Namespace, outside: Namespace) -> None:
    host.ip(
        f"link add uplink type veth peer name eth0 netns {outside.file.name}\n"
        f"address add {UPLINK}/24 dev uplink\n"
        "address add fd00:99::1/64 dev uplink\n"
        "link set uplink up\n"
        f"route add default via {OUTSIDE}\n"
    )
    outside.ip(
        f"address add {OUTSIDE}/24 dev eth0\n"
        "address add fd00:99::2/64 dev eth0\n"
        "link set eth0 up\n"
        + "".join(f"address add {address}/32 dev lo\n" for address in (INTERNET, LAN, METADATA, ALIBABA))
        + f"address add {INTERNET_6}/128 dev lo\n"
        "route add default via fd00:99::1\n"
        # Somebody who knows the way in.
        f"route add 10.213.0.0/16 via {UPLINK}\n"
    )
    host.ip("route add default via fd00:99::2")


_NAT = f"""
table ip nat
delete table ip nat
table ip nat {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        fib daddr type local tcp dport {PUBLISHED_PORT} dnat to {NEIGHBOUR}:{NEIGHBOUR_PORT}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        ip saddr 10.213.0.0/16 oifname "uplink" masquerade
    }}
}}
"""


def opening(to: str, *ports: int) -> Policy:
    """One destination opened, and every private range closed."""
    profile = Profile(open=("it",), close=("private",))
    return policy(profile, {"it": Destination.model_validate({"to": [to], "ports": ports})}, {}, [])
