"""The properties of the host that a sandbox has to follow."""

from ipaddress import IPv4Address
from pathlib import Path

import pytest
import yaml

from sandbox import host
from sandbox.inspection.places import SYSBOX_DATA

ROUTES = """Iface\tDestination\tGateway\tFlags
br0\t0000A8C0\t00000000\t0001
uplink\t00000000\t0100A8C0\t0003
"""


@pytest.fixture
def interfaces(tmp_path: Path) -> Path:
    for name, mtu in (("br0", "9000"), ("uplink", "1400")):
        (tmp_path / "net" / name).mkdir(parents=True)
        (tmp_path / "net" / name / "mtu").write_text(f"{mtu}\n")
    return tmp_path / "net"


def test_the_mtu_is_that_of_the_default_route(tmp_path: Path, interfaces: Path) -> None:
    """The trap: a bridge with 1500 behind an uplink with less stalls large transfers where ICMP is filtered."""
    (tmp_path / "route").write_text(ROUTES)
    assert host._uplink_mtu(tmp_path / "route", interfaces) == 1400


@pytest.mark.parametrize("routes", ["", "Iface\tDestination\n", "garbage\nnot a route\n", "x\ngone\t00000000\n"])
def test_without_a_usable_default_route_the_mtu_is_the_usual_one(tmp_path: Path, interfaces: Path, routes: str) -> None:
    (tmp_path / "route").write_text(routes)
    assert host._uplink_mtu(tmp_path / "route", interfaces) == 1500
    assert host._uplink_mtu(tmp_path / "missing", interfaces) == 1500


def test_a_resolver_on_the_hosts_loopback_is_left_out(tmp_path: Path) -> None:
    """The trap: 127.0.0.53 inside a sandbox is the sandbox itself."""
    (tmp_path / "resolv.conf").write_text(
        "# a comment\nsearch example.org\nnameserver 127.0.0.53\nnameserver 192.0.2.53 \nnameserver fe80::1%eth0\n"
        "nameserver\nnameserver nonsense\n"
    )
    assert host._nameservers(tmp_path / "resolv.conf") == (IPv4Address("192.0.2.53"),)
    assert host._nameservers(tmp_path / "missing") == ()


def test_where_systemd_resolved_tells_whom_it_asks_is_seen_in_the_keepers_container() -> None:
    """The trap: on Ubuntu the host's own file names 127.0.0.53 alone, and the other one is not in a container."""
    compose = yaml.safe_load((Path(__file__).parents[2] / "compose.yaml").read_text())
    folder = host._RESOLVERS[1].parent
    assert f"{folder}:{folder}:ro" in compose["services"]["keeper"]["volumes"]


def test_what_is_free_where_sysbox_keeps_its_data_is_seen_in_the_keepers_container() -> None:
    compose = yaml.safe_load((Path(__file__).parents[2] / "compose.yaml").read_text())
    shown = f"${{SYSBOX_DATA:-{SYSBOX_DATA}}}:{SYSBOX_DATA}:ro"
    assert shown in compose["services"]["keeper"]["volumes"]


def test_this_host_can_be_looked_at() -> None:
    facts = host.look()
    assert facts.nofile_ceiling >= 1024
    assert facts.mtu >= 576
