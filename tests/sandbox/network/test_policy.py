"""The network policy of a keeper's file, and the rules that it becomes."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sandbox.network import Destination, Policy, policy
from sandbox.network.policy import READY_MADE_CLOSINGS, PortRange, Protocol
from sandbox.profile import Network, Profile
from tests.sandbox.network.policies import networks, port_ranges

REGISTRY = Destination.model_validate({"to": ["192.168.1.20"], "ports": [443]})
OFFICE = Destination.model_validate({"to": ["10.9.0.0/16"]})


def test_the_default_is_the_internet_and_nothing_by_name() -> None:
    assert policy(Profile(), {}, {}, []) == Policy(Network.INTERNET)


@given(st.lists(networks, min_size=1))
def test_ranges_are_kept_without_overlap_and_mean_the_same(ranges: list[IPv4Network]) -> None:
    kept = Destination(to=tuple(ranges)).to
    assert not any(a.overlaps(b) for a in kept for b in kept if a is not b)
    assert all(any(range_.subnet_of(wide) for wide in kept) for range_ in ranges)
    assert sum(wide.num_addresses for wide in kept) <= sum(range_.num_addresses for range_ in ranges)


@given(st.lists(port_ranges))
def test_ports_are_kept_without_overlap_and_mean_the_same(ranges: list[PortRange]) -> None:
    kept = Destination(to=(IPv4Network("10.0.0.1"),), ports=tuple(ranges)).ports
    listed = [port for first, last in kept for port in range(first, last + 1)]
    assert listed == sorted({port for first, last in ranges for port in range(first, last + 1)})


@pytest.mark.parametrize(
    ("written", "meant"),
    [(443, (443, 443)), ("443", (443, 443)), ("8000-8010", (8000, 8010)), ("1-65535", (1, 65535))],
)
def test_ports_as_they_are_written(written: object, meant: tuple[int, int]) -> None:
    assert Destination.model_validate({"to": ["10.0.0.1"], "ports": [written]}).ports == (meant,)


@pytest.mark.parametrize("wrong", [0, 65536, -1, "https", "9-8", "-9", "9-", "1-2-3", True, 1.5, "٣", [1]])
def test_no_port(wrong: object) -> None:
    with pytest.raises(ValidationError, match=r"(?s)ports\.0.*must be a port from 1 to 65535 or a range"):
        Destination.model_validate({"to": ["10.0.0.1"], "ports": [wrong]})


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("registry.example.com", "and no name"),
        ("10.0.0.1/8", "has host bits set"),
        ("10.0.0.256", "must be an address or a range"),
        ("fd00::1", "IPv6, which sandboxes do not have"),
        ("fd00:ec2::254", "IPv6, which sandboxes do not have"),
    ],
)
def test_no_address(wrong: str, complaint: str) -> None:
    with pytest.raises(ValidationError, match=rf"(?s)to\.0.*{complaint}"):
        Destination.model_validate({"to": [wrong]})


@pytest.mark.parametrize(
    "wrong", [{"to": []}, {}, {"to": ["10.0.0.1"], "protocol": "icmp"}, {"to": ["::1"], "port": 1}]
)
def test_no_destination(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Destination.model_validate(wrong)


@pytest.mark.parametrize(
    ("protocol", "ports", "meant"),
    [
        (None, [], ()),
        (None, [53], (Protocol.TCP, Protocol.UDP)),
        ("udp", [53], (Protocol.UDP,)),
        ("tcp", [], (Protocol.TCP,)),
    ],
)
def test_which_protocols_are_meant(protocol: str | None, ports: list[int], meant: tuple[Protocol, ...]) -> None:
    written = {"to": ["10.0.0.1"], "protocol": protocol, "ports": ports}
    assert Destination.model_validate(written).protocols == meant


def test_names_are_looked_up() -> None:
    profile = Profile(open=("registry",), close=("office", "private"))
    found = policy(profile, {"registry": REGISTRY}, {"office": OFFICE}, [])
    assert found == Policy(Network.INTERNET, (REGISTRY,), (OFFICE, READY_MADE_CLOSINGS["private"]))


def test_a_definition_replaces_the_ready_made_one() -> None:
    assert policy(Profile(close=("private",)), {}, {"private": OFFICE}, []).close == (OFFICE,)


@pytest.mark.parametrize(
    ("profile", "complaint"),
    [
        (Profile(open=("regsitry",)), r"open: regsitry is not defined under \[openings\]; what is: registry"),
        (Profile(close=("registry",)), r"close: registry is not defined under \[closings\]; what is: private, office"),
    ],
)
def test_a_name_that_is_not_defined(profile: Profile, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        policy(profile, {"registry": REGISTRY}, {"office": OFFICE}, [])


def test_resolvers_are_opened_with_the_internet_and_only_for_dns() -> None:
    [opened] = policy(Profile(), {}, {}, [IPv4Address("169.254.169.254")]).open
    assert (opened.to, opened.ports) == ((IPv4Network("169.254.169.254"),), ((53, 53),))
    assert opened.protocols == (Protocol.TCP, Protocol.UDP)


def test_without_network_the_resolvers_stay_closed() -> None:
    assert policy(Profile(network=Network.NONE), {}, {}, [IPv4Address("192.168.1.1")]) == Policy(Network.NONE)


def test_a_closing_where_everything_is_closed_is_a_mistake() -> None:
    with pytest.raises(ValidationError, match="nothing to close"):
        Profile(network=Network.NONE, close=("private",))


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "é"])
def test_a_name_that_could_not_be_a_key(name: str) -> None:
    with pytest.raises(ValidationError):
        Profile(open=(name,))
