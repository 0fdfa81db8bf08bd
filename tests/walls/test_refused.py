"""Traffic that must not get through, tried without the walls first: else a test would prove nothing about the wall.

Refused means that the rule meant for a packet counted it and nothing was delivered. The packets come from a root with
raw sockets, routes and addresses of its own choice, just as a job has.
"""

import itertools
import socket
from collections.abc import Callable
from functools import partial

import pytest

from sandbox.network import Policy, Refusal
from tests.waiting import until
from tests.walls import lab as at
from tests.walls.lab import Lab
from tests.walls.namespaces import Namespace
from tests.walls.packets import UNREACHABLE, Ear, Kind, answer, ear, send, send_spoofed, unreachable

_ports = itertools.count(20000)

# Loose source route (RFC 791): by way of this address, on to the one that the packet is sent to.
SOURCE_ROUTE = bytes([131, 7, 4]) + socket.inet_aton(at.GATEWAY_ONE) + b"\0"

TARGETS = {
    "another sandbox": (at.TWO, "two", Refusal.SANDBOX),
    "the gateway": (at.GATEWAY_ONE, "host", Refusal.HOST),
    "another sandbox's gateway": (at.GATEWAY_TWO, "host", Refusal.HOST),
    "the host's own address": (at.UPLINK, "host", Refusal.HOST),
    "the host's address on another network": (at.NEIGHBOUR_GATEWAY, "host", Refusal.HOST),
    "another container": (at.NEIGHBOUR, "neighbour", Refusal.NEIGHBOUR),
    "link-local metadata": (at.METADATA, "outside", Refusal.METADATA),
    "metadata elsewhere": (at.ALIBABA, "outside", Refusal.METADATA),
    "what the profile closes": (at.LAN, "outside", Refusal.CLOSED),
}


def check(lab: Lab, why: Refusal, ear: Ear, knock: Callable[[], socket.socket], policy: Policy = at.CLOSED_LAN) -> None:
    """Without the walls it arrives; with them it is counted and does not."""
    with ear.sock:
        with knock():
            until("it arrives without the walls", ear.has_heard)
        lab.ensure(policy)
        before = lab.count(why)
        ear.forget()
        with knock():
            until(f"it is refused as {why}", partial(lab.has_refused, why, before.packets))
        assert not ear.has_heard()
        assert lab.count(why).bytes > before.bytes


def named(lab: Lab, name: str) -> Namespace:
    namespace = getattr(lab, name)
    assert isinstance(namespace, Namespace)
    return namespace


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name.lower())
@pytest.mark.parametrize("target", TARGETS)
def test_out_of_a_sandbox(any_lab: Lab, target: str, kind: Kind) -> None:
    address, where, why = TARGETS[target]
    port = next(_ports)
    check(any_lab, why, ear(named(any_lab, where), kind, port), lambda: send(any_lab.one, kind, address, port))


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name.lower())
def test_between_sandboxes_the_other_way(lab: Lab, kind: Kind) -> None:
    port = next(_ports)
    check(lab, Refusal.SANDBOX, ear(lab.one, kind, port), lambda: send(lab.two, kind, at.ONE, port))


@pytest.mark.parametrize("address", [at.UPLINK, at.GATEWAY_ONE, at.NEIGHBOUR_GATEWAY])
def test_a_port_that_the_host_publishes(any_lab: Lab, address: str) -> None:
    listening = ear(any_lab.neighbour, Kind.TCP, at.NEIGHBOUR_PORT)
    check(any_lab, Refusal.PUBLISHED, listening, lambda: send(any_lab.one, Kind.TCP, address, at.PUBLISHED_PORT))


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name.lower())
@pytest.mark.parametrize(
    ("address", "where"),
    [
        (at.GATEWAY_6, "host"),
        ("fe80::%eth0", "host"),  # the host's link-local address, filled in below
        ("ff02::1%eth0", "host"),
        (at.INTERNET_6, "outside"),
    ],
)
def test_ipv6(any_lab: Lab, address: str, where: str, kind: Kind) -> None:
    if address == "fe80::%eth0":
        address = f"{link_local(any_lab)}%eth0"
    if address.startswith("ff02") and kind is Kind.TCP:
        kind = Kind.UDP  # nobody calls a group
    port = next(_ports)
    listening = ear(named(any_lab, where), kind, port, socket.AF_INET6)
    check(any_lab, Refusal.IPV6, listening, lambda: send(any_lab.one, kind, address, port))


def link_local(lab: Lab) -> str:
    shown = lab.host.run("ip", "-6", "-brief", "address", "show", "dev", at.BRIDGE_ONE, "scope", "link")
    return shown.split()[2].partition("/")[0]


@pytest.mark.parametrize("address", ["224.0.0.1", "255.255.255.255", "10.213.0.15"])
def test_groups_and_broadcasts(any_lab: Lab, address: str) -> None:
    port = next(_ports)
    check(any_lab, Refusal.HOST, ear(any_lab.host, Kind.UDP, port), lambda: send(any_lab.one, Kind.UDP, address, port))


@pytest.mark.parametrize("source", [at.TWO, at.GATEWAY_ONE, at.UPLINK, at.LAN, "198.51.100.77", "10.213.1.99"])
def test_a_source_that_is_not_its_own(any_lab: Lab, source: str) -> None:
    # A host may filter by route, and would drop this for us; the walls must not depend on it.
    for interface in ("all", at.BRIDGE_ONE):
        any_lab.host.sysctl(f"ipv4/conf/{interface}/rp_filter", 0)
    # A source address of the host's own gets past the kernel only where that was allowed, as some balancers do.
    any_lab.host.sysctl(f"ipv4/conf/{at.BRIDGE_ONE}/accept_local", 1)
    port = next(_ports)
    any_lab.outside.sysctl("ipv4/conf/all/rp_filter", 0)
    any_lab.outside.sysctl("ipv4/conf/eth0/rp_filter", 0)
    any_lab.outside.sysctl("ipv4/conf/eth0/accept_local", 1)
    check(
        any_lab,
        Refusal.SPOOFED,
        ear(any_lab.outside, Kind.UDP, port),
        lambda: send_spoofed(any_lab.one, source, at.INTERNET, port),
    )


def test_a_source_route(any_lab: Lab) -> None:
    for interface in ("all", at.BRIDGE_ONE):
        any_lab.host.sysctl(f"ipv4/conf/{interface}/accept_source_route", 1)
    any_lab.outside.sysctl("ipv4/conf/all/accept_source_route", 1)
    any_lab.outside.sysctl("ipv4/conf/eth0/accept_source_route", 1)
    port = next(_ports)
    check(
        any_lab,
        Refusal.OPTIONS,
        ear(any_lab.outside, Kind.UDP, port),
        lambda: send(any_lab.one, Kind.UDP, at.INTERNET, port, SOURCE_ROUTE),
    )


@pytest.mark.parametrize("group", ["224.0.0.1", f"ff02::1%{at.BRIDGE_ONE}"])
def test_the_hosts_own_multicast_stays_out_and_is_nobodys_attempt(lab: Lab, group: str) -> None:
    """Announcements on every interface: counted, they would hide what somebody really tried."""
    lab.host.ip(f"route replace 224.0.0.1 dev {at.BRIDGE_ONE}")
    port = next(_ports)
    hears = ear(lab.one, Kind.UDP, port, socket.AF_INET6 if ":" in group else socket.AF_INET)
    with hears.sock:
        with send(lab.host, Kind.UDP, group, port):
            until("it arrives without the walls", hears.has_heard)
        lab.ensure()
        before = lab.count(Refusal.INBOUND)
        send(lab.host, Kind.UDP, group, port).close()
        send(lab.host, Kind.UDP, at.ONE, port).close()
        until("the packet after it is refused", partial(lab.has_refused, Refusal.INBOUND, before.packets))
        assert lab.count(Refusal.INBOUND).packets == before.packets + 1
        assert not hears.has_heard()


def test_the_hosts_loopback(any_lab: Lab) -> None:
    """A host whose kernel routes loopback addresses, as some cluster networks ask for, has no private loopback."""
    any_lab.host.sysctl(f"ipv4/conf/{at.BRIDGE_ONE}/route_localnet", 1)
    any_lab.one.sysctl("ipv4/conf/eth0/route_localnet", 1)
    any_lab.one.ip(f"address del 127.0.0.1/8 dev lo\nroute add 127.0.0.1 via {at.GATEWAY_ONE} src {at.ONE}")
    port = next(_ports)
    try:
        check(
            any_lab,
            Refusal.HOST,
            ear(any_lab.host, Kind.UDP, port),
            lambda: send(any_lab.one, Kind.UDP, "127.0.0.1", port),
        )
    finally:
        any_lab.one.ip("route del 127.0.0.1\naddress add 127.0.0.1/8 dev lo")


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name.lower())
@pytest.mark.parametrize("where", ["outside", "neighbour", "host"])
def test_into_a_sandbox(any_lab: Lab, where: str, kind: Kind) -> None:
    port = next(_ports)
    listening = ear(any_lab.one, kind, port)
    check(any_lab, Refusal.INBOUND, listening, lambda: send(named(any_lab, where), kind, at.ONE, port))


@pytest.mark.parametrize("where", ["outside", "neighbour"])
def test_into_a_sandbox_by_ssh_from_elsewhere_than_the_host(lab: Lab, where: str) -> None:
    check(lab, Refusal.INBOUND, ear(lab.one, Kind.TCP, 22), lambda: send(named(lab, where), Kind.TCP, at.ONE, 22))


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.name.lower())
@pytest.mark.parametrize("address", [at.INTERNET, at.LAN])
def test_out_of_a_sandbox_without_network(any_lab: Lab, address: str, kind: Kind) -> None:
    port = next(_ports)
    listening = ear(any_lab.outside, kind, port)
    check(any_lab, Refusal.NONE, listening, lambda: send(any_lab.one, kind, address, port), at.SHUT)


def test_without_network_the_host_is_as_far_away(lab: Lab) -> None:
    port = next(_ports)
    listening = ear(lab.host, Kind.TCP, port)
    check(lab, Refusal.HOST, listening, lambda: send(lab.one, Kind.TCP, at.GATEWAY_ONE, port), at.SHUT)


def test_a_bridge_that_nobody_vouched_for(lab: Lab) -> None:
    """A late create of the engine's, of which no profile is known any more."""
    with ear(lab.outside, Kind.UDP).sock as sock:
        send(lab.one, Kind.UDP, at.INTERNET, 9).close()
        until("it arrives without the walls", lambda: Ear(sock, lambda _: True).has_heard())
        lab.host.call(lab.walls.ensure)
        send(lab.one, Kind.UDP, at.INTERNET, 9).close()
        until("it is counted", lambda: lab.count(Refusal.SPOOFED).packets > 0)
        assert not Ear(sock, lambda _: True).has_heard()


def test_an_error_about_somebody_elses_connection(lab: Lab) -> None:
    """An ICMP error belongs to the connection that it quotes: a forged one must not reach what is closed."""
    with lab.outside.call(lambda: socket.create_server((at.INTERNET, 7001))) as server:
        lab.ensure()
        with lab.one.call(lambda: socket.create_connection((at.INTERNET, 7001), timeout=5)) as call:
            server.accept()[0].close()
            inner = answer(at.INTERNET, at.ONE, 7001, call.getsockname()[1])
            with (
                ear(lab.outside, Kind.ICMP).sock as sock,
                lab.one.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)) as raw,
            ):
                hears = Ear(sock, lambda packet: tuple(packet[20:22]) == UNREACHABLE)
                refused = lab.count(Refusal.INBOUND).packets
                raw.sendto(unreachable(inner), (at.LAN, 0))
                until("it is refused", lambda: lab.count(Refusal.INBOUND).packets > refused)
                assert not hears.has_heard()
                raw.sendto(unreachable(inner), (at.INTERNET, 0))  # to whom it belongs, it may go
                until("it arrives where it belongs", hears.has_heard)
