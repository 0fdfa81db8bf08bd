"""The walls stand: any part that somebody removes is put back, and nothing gets through meanwhile unnoticed."""

import socket
import subprocess
import sys
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.network import Policy, Refusal, Wall, Walls, WallsDown, WallState, require_bridge, walled, walls
from sandbox.network.ruleset import bridge_prefix, table_name
from sandbox.template import InstallationId
from tests.sandbox.network.policies import policies
from tests.waiting import until
from tests.walls import lab as at
from tests.walls.lab import Lab
from tests.walls.namespaces import Namespace
from tests.walls.packets import Kind, ear, send

TABLE = table_name(at.INSTALLATION)

LOSSES = {
    "everything flushed": "flush ruleset",
    "our table deleted": f"delete table inet {TABLE}",
    "our table emptied": f"flush table inet {TABLE}",
    "one chain emptied": f"flush chain inet {TABLE} input",
    "one policy emptied": f"flush chain inet {TABLE} policy_1",
    "a rule put before ours": f"insert rule inet {TABLE} forward accept",
    "a sandbox's walls taken away": f'add element inet {TABLE} sources {{ "{at.BRIDGE_ONE}" . 10.9.9.9 }}',
    "the table switched off": f"add table inet {TABLE} {{ flags dormant; }}",
}


def flushed(host: Namespace, what: str) -> None:
    host.run("nft", "-f", "-", given=what)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_is_noticed_and_put_back(lab: Lab, loss: str) -> None:
    assert lab.ensure() is WallState.LOADED
    assert lab.ensure() is WallState.STANDING
    flushed(lab.host, LOSSES[loss])
    assert lab.ensure() is WallState.PUT_BACK
    assert lab.ensure() is WallState.STANDING


def test_where_no_rule_was_changed_nothing_is_read(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The trap: reading it each second took most of what a keeper at rest takes."""
    lab.ensure()
    monkeypatch.setenv("PATH", str(tmp_path))  # there is no nft
    assert lab.ensure() is WallState.STANDING


def test_another_table_s_change_is_no_loss(lab: Lab) -> None:
    lab.ensure()
    lab.host.run("nft", "add", "table", "inet", "other")
    assert lab.ensure() is WallState.STANDING
    lab.host.run("nft", "delete", "table", "inet", "other")
    assert lab.ensure() is WallState.STANDING


def test_where_the_kernel_does_not_tell_it_is_read(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walls, "generation", lambda: None)
    lab.ensure()
    assert lab.ensure() is WallState.STANDING
    flushed(lab.host, "flush ruleset")
    assert lab.ensure() is WallState.PUT_BACK


def test_without_the_right_to_it_the_kernel_tells_no_generation(lab: Lab) -> None:
    show = [sys.executable, "-c", "from sandbox.network.generation import generation; print(generation())"]
    printed = [
        subprocess.run([*before, *show], capture_output=True, text=True, timeout=60, check=True).stdout.strip()
        for before in ([], ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"])
    ]
    assert printed[0].isdigit()
    assert printed[1] == "None"


def test_a_loss_is_told_although_something_else_is_wanted_by_now(lab: Lab) -> None:
    lab.ensure()
    flushed(lab.host, "flush ruleset")
    assert lab.ensure(at.OPEN) is WallState.PUT_BACK


@pytest.mark.parametrize("kind", [Kind.TCP, Kind.UDP, Kind.ICMP], ids=lambda kind: kind.name.lower())
def test_with_everything_flushed_it_gets_through_until_it_is_put_back(lab: Lab, kind: Kind) -> None:
    lab.ensure()
    flushed(lab.host, f"delete table inet {TABLE}")
    hears = ear(lab.two, kind, 30000)
    with hears.sock:
        send(lab.one, kind, at.TWO, 30000).close()
        until("it gets through", hears.has_heard)
        assert lab.ensure() is WallState.PUT_BACK
        before = lab.count(Refusal.SANDBOX).packets
        send(lab.one, kind, at.TWO, 30000).close()
        until("it is refused", partial(lab.has_refused, Refusal.SANDBOX, before))
        assert not hears.has_heard()


def test_what_was_connected_meanwhile_is_cut_in_both_directions(lab: Lab) -> None:
    with (
        lab.outside.call(lambda: socket.create_server((at.METADATA, 80))) as server,
        lab.one.call(lambda: socket.create_connection((at.METADATA, 80), timeout=5)) as call,
        server.accept()[0] as answered,
    ):
        call.setblocking(False)
        answered.setblocking(False)
        lab.ensure()
        for speaks, hears in ((answered, call), (call, answered)):
            before = lab.count(Refusal.METADATA).packets
            speaks.send(b"hello")
            until("it is refused", partial(lab.has_refused, Refusal.METADATA, before))
            with pytest.raises(BlockingIOError):
                hears.recv(9)


def test_somebody_elses_call_to_a_sandbox_is_cut_as_well(lab: Lab) -> None:
    with (
        lab.one.call(lambda: socket.create_server((at.ONE, 80))) as server,
        lab.outside.call(lambda: socket.create_connection((at.ONE, 80), timeout=5)) as call,
        server.accept()[0] as answered,
    ):
        call.setblocking(False)
        lab.ensure()
        before = lab.count(Refusal.INBOUND).packets
        answered.send(b"hello")
        until("it is refused", partial(lab.has_refused, Refusal.INBOUND, before))
        with pytest.raises(BlockingIOError):
            call.recv(9)


def test_counters_go_on_over_a_reload_and_a_loss(lab: Lab) -> None:
    lab.ensure()
    before = lab.count(Refusal.SANDBOX).packets
    send(lab.one, Kind.UDP, at.TWO, 9).close()
    until("it is refused", partial(lab.has_refused, Refusal.SANDBOX, before))
    counted = lab.count(Refusal.SANDBOX)
    lab.ensure(at.OPEN)
    assert lab.count(Refusal.SANDBOX) == counted
    flushed(lab.host, f"delete table inet {TABLE}")
    lab.ensure(at.OPEN)
    assert lab.count(Refusal.SANDBOX) == counted
    again = Walls(at.INSTALLATION)  # the keeper was restarted
    assert lab.host.call(again.ensure) is WallState.LOADED
    assert lab.host.call(again.counters)[Refusal.SANDBOX] == counted


def test_two_installations_leave_each_other_alone(lab: Lab) -> None:
    other = Walls(InstallationId("feedbeef"))
    lab.ensure()
    bridge = bridge_prefix(InstallationId("feedbeef")) + "1"
    other.put(bridge, Wall(at.NEIGHBOURS, at.OPEN))
    assert lab.host.call(other.ensure) is WallState.LOADED
    assert lab.ensure() is WallState.STANDING
    lab.host.call(other.remove)
    assert lab.ensure() is WallState.STANDING


def test_removing_leaves_nothing_of_ours_and_everything_else(lab: Lab) -> None:
    before = lab.table()
    lab.ensure()
    assert lab.table() != before
    lab.host.call(lab.walls.remove)
    assert lab.table() == before
    lab.host.call(lab.walls.remove)


def test_a_table_that_is_flushed_at_once_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = walls._nft

    def flushing(*arguments: str, given: str = "") -> str:
        printed = real(*arguments, given=given)
        if arguments[0] == "-f":
            real("flush", "table", "inet", TABLE)
        return printed

    with monkeypatch.context() as patch:
        patch.setattr(walls, "_nft", flushing)
        with pytest.raises(WallsDown, match=r"as soon as it was loaded.*leave this table alone"):
            lab.ensure()
    assert lab.ensure() is not WallState.STANDING


def test_what_nft_refuses_changes_nothing(lab: Lab) -> None:
    """One transaction: half a wall is no state that there is."""
    lab.ensure()
    before = lab.table()
    lab.walls.put(at.BRIDGE_ONE + "longerthananynamemaybe", Wall(at.SUBNET_ONE, at.OPEN))
    with pytest.raises(WallsDown, match="nft refused"):
        lab.host.call(lab.walls.ensure)
    assert lab.table() == before


def test_without_the_right_to_it(lab: Lab) -> None:
    script = (
        "from sandbox.network import Walls; from sandbox.template import InstallationId;"
        "Walls(InstallationId('0badcafe')).ensure()"
    )
    without = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    process = subprocess.run(
        [*without, "python", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert "WallsDown: The keeper may not set up the walls" in process.stderr
    assert "NET_ADMIN" in process.stderr


def test_without_nft(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WallsDown, match="Install nftables"):
        lab.ensure()


def test_an_nft_that_hangs(lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nft = tmp_path / "nft"
    nft.write_text("#!/bin/sh\nexec sleep 100\n")
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(walls, "NFT_DEADLINE", 0.2)
    with pytest.raises(WallsDown, match=r"did not finish"):
        lab.ensure()


def test_a_keeper_in_another_network_namespace_than_the_engine_is_told(lab: Lab) -> None:
    lab.host.call(lambda: require_bridge(at.BRIDGE_ONE))
    with pytest.raises(WallsDown, match="network_mode: host"):
        lab.outside.call(lambda: require_bridge(at.BRIDGE_ONE))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(policies, min_size=1, max_size=4), st.lists(st.ip_addresses(v=4), max_size=3))
def test_every_policy_that_can_be_written_can_be_loaded(
    lab: Lab, wanted: list[Policy], neighbours: list[object]
) -> None:
    """Overlapping ranges and ports, which nft refuses where it is not told to merge them, are the trap."""
    prefix = bridge_prefix(at.INSTALLATION)
    subnets = list(at.NEIGHBOURS.subnets(new_prefix=29))
    lab.walls = Walls(at.INSTALLATION)
    for number, policy in enumerate(wanted):
        lab.walls.put(f"{prefix}{number:x}", Wall(subnets[number], policy))
    ranges = [at.NEIGHBOURS, *(IPv4Network(f"{address}/20", strict=False) for address in neighbours)]
    assert lab.host.call(lambda: lab.walls.ensure(ranges)) is WallState.LOADED
    assert lab.host.call(lambda: lab.walls.ensure(ranges)) is WallState.STANDING


def test_what_is_said_again_is_not_loaded_again(lab: Lab) -> None:
    lab.ensure()
    assert lab.ensure() is WallState.STANDING
    assert lab.host.call(lab.walls.ensure) is WallState.STANDING
    assert lab.host.call(lambda: lab.walls.ensure([])) is WallState.LOADED
    assert lab.ensure(at.OPEN) is WallState.LOADED
    lab.walls.forget("sbx0badca777")
    assert lab.host.call(lab.walls.ensure) is WallState.STANDING


def test_walls_that_stand_around_nothing_are_found_and_nobody_else_s(lab: Lab) -> None:
    """The trap: a table without containers would be left for ever by an uninstallation."""
    assert lab.host.call(walled) == set()
    lab.ensure()
    for name in ("sandbox_0badcaf", "sandbox_0badcafe_", "other"):
        lab.host.run("nft", "add", "table", "inet", name)
    lab.host.run("nft", "add", "table", "ip", "sandbox_0123abcd")
    try:
        assert lab.host.call(walled) == {at.INSTALLATION}
    finally:
        lab.host.run("nft", "flush", "ruleset")


def test_a_sandbox_that_was_forgotten_is_closed(lab: Lab) -> None:
    lab.ensure()
    lab.walls.forget(at.BRIDGE_ONE)
    assert lab.host.call(lab.walls.ensure) is WallState.LOADED
    before = lab.count(Refusal.SPOOFED).packets
    with send(lab.one, Kind.UDP, at.INTERNET, 9):
        until("it is refused", partial(lab.has_refused, Refusal.SPOOFED, before))
