"""Traffic that must get through: the way out and its answers, the keeper's way in, and openings by name."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from ipaddress import IPv4Address

import pytest

from sandbox.network import Destination, Policy, Refusal, policy
from sandbox.profile import Network, Profile
from tests.waiting import until
from tests.walls import lab as at
from tests.walls.lab import Lab
from tests.walls.namespaces import Namespace
from tests.walls.packets import Kind, ear, send

SECONDS = 5.0


def tcp(caller: Namespace, called: Namespace, address: str, port: int, listening: tuple[str, int] | None = None) -> str:
    """Say something and have it said back; returns whom the called one saw."""
    with called.call(lambda: socket.create_server(listening or (address, port))) as server:
        server.settimeout(SECONDS)
        with caller.call(lambda: socket.create_connection((address, port), timeout=SECONDS)) as call:
            answered, (seen, _) = server.accept()
            with answered:
                answered.settimeout(SECONDS)
                call.sendall(b"hello")
                assert answered.recv(9) == b"hello"
                answered.sendall(b"good day")
                assert call.recv(9) == b"good day"
                return str(seen)


def udp(caller: Namespace, called: Namespace, address: str, port: int) -> None:
    with (
        called.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server,
        caller.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as call,
    ):
        server.settimeout(SECONDS)
        call.settimeout(SECONDS)
        server.bind((address, port))
        call.sendto(b"hello", (address, port))
        _, seen = server.recvfrom(9)
        server.sendto(b"good day", seen)
        assert call.recv(9) == b"good day"


@contextmanager
def refused(lab: Lab, why: Refusal, address: str, port: int) -> Iterator[None]:
    """The port beside an open one is refused, before and after."""

    def knock() -> None:
        before = lab.count(why).packets
        with send(lab.one, Kind.TCP, address, port):
            until(f"port {port} is refused", partial(lab.has_refused, why, before))

    knock()
    yield
    knock()


def test_the_internet_through_the_engines_masquerade(any_lab: Lab) -> None:
    any_lab.ensure()
    assert tcp(any_lab.one, any_lab.outside, at.INTERNET, 443) == at.UPLINK
    udp(any_lab.one, any_lab.outside, at.INTERNET, 123)


def test_ping_and_what_has_no_ports(lab: Lab) -> None:
    lab.ensure()
    with send(lab.one, Kind.ICMP, at.INTERNET) as ping:
        until("the answer", lambda: _received(ping))
    with ear(lab.outside, Kind.OTHER).sock as sock:
        send(lab.one, Kind.OTHER, at.INTERNET).close()
        until("it arrives", lambda: _received(sock))


def _received(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(2048))
    except BlockingIOError:
        return False


def test_private_ranges_are_open_unless_the_profile_closes_them(lab: Lab) -> None:
    lab.ensure(at.OPEN)
    tcp(lab.one, lab.outside, at.LAN, 5000)


def test_the_hosts_way_in_to_ssh(any_lab: Lab) -> None:
    for wall in (at.CLOSED_LAN, at.SHUT):
        any_lab.ensure(wall)
        tcp(any_lab.host, any_lab.one, at.ONE, 22)


def test_a_connection_of_the_keepers_outlives_a_reload_and_a_forgotten_connection(lab: Lab) -> None:
    lab.ensure()
    with (
        lab.one.call(lambda: socket.create_server((at.ONE, 22))) as server,
        lab.host.call(lambda: socket.create_connection((at.ONE, 22), timeout=SECONDS)) as call,
        server.accept()[0] as answered,
    ):
        for disturb in (lambda: lab.ensure(at.OPEN), lab.forget_connections):
            disturb()
            call.sendall(b"hello")
            assert answered.recv(9) == b"hello"
            answered.sendall(b"good day")
            assert call.recv(9) == b"good day"


@pytest.mark.parametrize(
    ("wall", "address"), [(at.CLOSED_LAN, at.INTERNET), (at.opening(at.LAN, 9), at.LAN)], ids=["open", "opened"]
)
def test_errors_come_back_so_that_a_refused_port_does_not_hang(lab: Lab, wall: Policy, address: str) -> None:
    lab.ensure(wall)
    with lab.one.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as call:
        call.settimeout(SECONDS)
        call.connect((address, 9))
        call.send(b"hello")
        with pytest.raises(ConnectionRefusedError):
            call.recv(9)


def test_the_host_tells_a_sandbox_the_mtu_of_its_way_out(lab: Lab) -> None:
    lab.ensure()
    lab.host.ip("link set uplink mtu 1400")
    try:
        with lab.one.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as call:
            call.connect((at.INTERNET, 9))
            ip_mtu_discover, do, ip_mtu = 10, 2, 14  # linux/in.h
            call.setsockopt(socket.IPPROTO_IP, ip_mtu_discover, do)
            call.send(b"x" * 1450)
            until("the kernel has learned it", lambda: call.getsockopt(socket.IPPROTO_IP, ip_mtu) == 1400)
    finally:
        lab.host.ip("link set uplink mtu 1500")
        lab.one.ip("route flush cache")


def test_an_opening_in_a_closed_range_opens_its_ports_alone(any_lab: Lab) -> None:
    any_lab.ensure(at.opening(at.LAN, 5000))
    with refused(any_lab, Refusal.CLOSED, at.LAN, 5001):
        tcp(any_lab.one, any_lab.outside, at.LAN, 5000)
        udp(any_lab.one, any_lab.outside, at.LAN, 5000)


def test_an_opening_of_everything_there_lets_a_ping_through(lab: Lab) -> None:
    lab.ensure(at.opening(at.LAN))
    with send(lab.one, Kind.ICMP, at.LAN) as ping:
        until("the answer", lambda: _received(ping))


def test_an_opening_for_one_protocol_is_closed_for_the_other(lab: Lab) -> None:
    it = Destination.model_validate({"to": [at.LAN], "protocol": "tcp"})
    lab.ensure(policy(Profile(open=("it",), close=("private",)), {"it": it}, {}, []))
    tcp(lab.one, lab.outside, at.LAN, 5000)
    before = lab.count(Refusal.CLOSED).packets
    with send(lab.one, Kind.UDP, at.LAN, 5000):
        until("udp is refused", partial(lab.has_refused, Refusal.CLOSED, before))


@pytest.mark.parametrize("address", [at.UPLINK, at.GATEWAY_ONE])
def test_a_proxy_on_the_host(any_lab: Lab, address: str) -> None:
    any_lab.ensure(at.opening(address, 3128))
    with refused(any_lab, Refusal.HOST, address, 3129):
        assert tcp(any_lab.one, any_lab.host, address, 3128) == at.ONE


def test_a_published_port_is_opened_as_what_the_job_calls(any_lab: Lab) -> None:
    any_lab.ensure(at.opening(at.UPLINK, at.PUBLISHED_PORT))
    listening = (at.NEIGHBOUR, at.NEIGHBOUR_PORT)
    with refused(any_lab, Refusal.NEIGHBOUR, *listening):
        tcp(any_lab.one, any_lab.neighbour, at.UPLINK, at.PUBLISHED_PORT, listening)


def test_another_container_by_its_own_address(lab: Lab) -> None:
    lab.ensure(at.opening(at.NEIGHBOUR, 5000))
    with refused(lab, Refusal.NEIGHBOUR, at.NEIGHBOUR, 5001):
        tcp(lab.one, lab.neighbour, at.NEIGHBOUR, 5000)


def test_cloud_identity(lab: Lab) -> None:
    lab.ensure(at.opening(at.METADATA, 80))
    with refused(lab, Refusal.METADATA, at.METADATA, 81):
        tcp(lab.one, lab.outside, at.METADATA, 80)


@pytest.mark.parametrize(
    ("resolver", "where", "why"),
    [
        (at.LAN, "outside", Refusal.CLOSED),
        (at.METADATA, "outside", Refusal.METADATA),
        (at.UPLINK, "host", Refusal.HOST),
    ],
)
def test_the_hosts_resolvers_answer_wherever_they_are(lab: Lab, resolver: str, where: str, why: Refusal) -> None:
    lab.ensure(policy(Profile(close=("private",)), {}, {}, [IPv4Address(resolver)]))
    with refused(lab, why, resolver, 80):
        udp(lab.one, getattr(lab, where), resolver, 53)
        tcp(lab.one, getattr(lab, where), resolver, 53)


def test_without_network_but_for_an_opening(lab: Lab) -> None:
    registry = Destination.model_validate({"to": [at.LAN], "ports": [443]})
    only = policy(Profile(network=Network.NONE, open=("registry",)), {"registry": registry}, {}, [IPv4Address(at.LAN)])
    lab.ensure(only)
    with refused(lab, Refusal.NONE, at.INTERNET, 443), refused(lab, Refusal.NONE, at.LAN, 53):
        tcp(lab.one, lab.outside, at.LAN, 443)


def test_each_sandbox_has_the_walls_of_its_own_profile(lab: Lab) -> None:
    lab.ensure(at.SHUT, at.OPEN)
    with refused(lab, Refusal.NONE, at.INTERNET, 443):
        tcp(lab.two, lab.outside, at.INTERNET, 443)


def test_the_network_is_taken_and_given_without_recreating(lab: Lab) -> None:
    lab.ensure(at.OPEN)
    with ExitStack() as stack:
        server = stack.enter_context(lab.outside.call(lambda: socket.create_server((at.INTERNET, 443))))
        call = stack.enter_context(lab.one.call(lambda: socket.create_connection((at.INTERNET, 443), timeout=SECONDS)))
        answered = stack.enter_context(server.accept()[0])
        answered.settimeout(SECONDS)
        lab.ensure(at.SHUT)
        before = lab.count(Refusal.NONE).packets
        call.sendall(b"hello")
        until("it is refused", partial(lab.has_refused, Refusal.NONE, before))
        lab.ensure(at.OPEN)
        assert answered.recv(9) == b"hello"  # TCP has sent it again
