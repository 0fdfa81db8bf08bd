"""Damage to the network: routes, names, filters."""

from __future__ import annotations

import pytest

from runner.execution.options import Settings
from runner.outcome import SandboxLost
from sandbox.errors import Fault
from sandbox.inspection.judge import ReasonKind
from tests.damage.case import Case
from tests.damage.conftest import Lab

CASES = [
    Case("resolv.conf poisoned", "echo 'nameserver 192.0.2.1' | sudo tee /etc/resolv.conf >/dev/null", ReasonKind.NAMES,
         planted="grep 192.0.2.1 /etc/resolv.conf"),
    Case("hosts poisoned", "echo '192.0.2.1 registry' | sudo tee -a /etc/hosts >/dev/null", ReasonKind.NAMES,
         planted="grep 192.0.2.1 /etc/hosts"),
    Case("another way out for some", "sudo ip route add 192.0.2.0/24 dev eth0", ReasonKind.NETWORK,
         planted="ip route | grep 192.0.2"),
    Case("an interface left", "sudo ip link add spy0 type veth peer name spy1", ReasonKind.OTHER_NETWORK,
         planted="ip -o link | grep spy"),
    Case("logins refused by a filter",
         "sudo iptables -I INPUT -p tcp --dport 22 --syn -j REJECT --reject-with tcp-reset",
         frozenset({Fault.SSH_DEAD})),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_network(lab: Lab, case: Case) -> None:
    lab.check(case)


def test_an_interface_down_loses_the_sandbox_and_not_the_time_of_a_cut_network(lab: Lab) -> None:
    """The trap: from where the runner is, it looks like a network that is cut, which is waited for. The keeper sees the
    route that is gone."""
    lost = lab.run("sudo ip link set eth0 down; sleep 600", settings=Settings(keepalive_interval=0.3)).outcome
    assert isinstance(lost, SandboxLost)
    assert "The route to everywhere through eth0" in lost.why
    assert lab.keeper.last_condemned().fault is Fault.DAMAGED
