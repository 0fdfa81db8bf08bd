"""Damage to logins: sshd, its configuration and keys."""

from __future__ import annotations

import pytest

from sandbox.inspection.judge import ReasonKind
from tests.damage.case import DIED, LOST, Case
from tests.damage.conftest import Lab

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8y8bYl4t1yXxYb5nqJtq3qkq6n1Gv7Jt0q7u0Yw2mL mallory"

CASES = [
    Case(
        "authorized keys extended",
        f"echo '{KEY}' | sudo tee -a /run/sandbox/authorized_keys >/dev/null",
        ReasonKind.LOGIN,
        planted="sudo grep -r mallory /run/sandbox /etc/sandbox",
    ),
    Case("authorized keys emptied", "sudo truncate -s 0 /run/sandbox/authorized_keys", ReasonKind.LOGIN),
    Case("authorized keys unreadable", "sudo chmod 0 /run/sandbox/authorized_keys", ReasonKind.LOGIN),
    Case(
        "given keys extended, for the next start",
        f"echo '{KEY}' | sudo tee -a /etc/sandbox/authorized_keys >/dev/null",
        ReasonKind.LOGIN,
        planted="sudo grep -r mallory /run/sandbox /etc/sandbox",
    ),
    Case(
        "sshd reconfigured and told to read it",
        "sudo sed -i 's/PermitRootLogin no/PermitRootLogin yes/' /etc/sandbox/sshd_config; sudo pkill -o -HUP sshd",
        ReasonKind.LOGIN,
        planted="sudo grep 'PermitRootLogin yes' /etc/sandbox/sshd_config",
    ),
    Case(
        "the image's sshd configuration replaced",
        "echo 'Port 2222' | sudo tee /etc/ssh/sshd_config.d/zz.conf >/dev/null",
        ReasonKind.LOGIN,
        planted="ls /etc/ssh/sshd_config.d/zz.conf 2>/dev/null",
    ),
    Case(
        "host key replaced",
        "sudo ssh-keygen -q -t ed25519 -N '' -f /tmp/key && sudo cp /tmp/key /run/sandbox/ssh_host_ed25519_key",
        ReasonKind.LOGIN,
    ),
    Case(
        "sshd's program replaced",
        "sudo cp /bin/true /usr/sbin/sshd.new && sudo mv /usr/sbin/sshd.new /usr/sbin/sshd",
        ReasonKind.PROGRAMS,
    ),
    Case("sshd killed", "sudo pkill -KILL -x sshd; sleep 20", DIED, result=LOST),
    Case("sshd stopped, which hangs instead of dying", "sudo pkill -STOP -x sshd", ReasonKind.SERVICES),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_login(lab: Lab, case: Case) -> None:
    lab.check(case)
