"""Damage to the parts that keep the sandbox alive: its first process, its sshd, and processes that answer for it."""

from __future__ import annotations

import pytest

from sandbox.inspection.judge import ReasonKind
from tests.damage.case import DIED, LOST, Case
from tests.damage.conftest import Lab


def impostor(act: str) -> str:
    """Another program on port 22: the watch is stopped first, since without sshd it would end the sandbox."""
    program = (
        f"import socket;s=socket.socket();s.setsockopt(1,2,1);s.bind(('',22));s.listen()\nwhile 1: c,_=s.accept(){act}"
    )
    return (
        "sudo pkill -STOP -x sandbox-entrypo; sudo kill -9 $(cat /run/sshd.pid);"
        f"sudo setsid python3 -c \"$(printf '%b' {program!r})\" >/dev/null 2>&1 </dev/null &"
        "until ss -Hltn 'sport = :22' | grep -q 0.0.0.0; do sleep 0.05; done"
    )


CASES = [
    Case("an sshd that answers garbage", impostor(";c.send(b'x'*9999)"), ReasonKind.SERVICES),
    Case(
        "an sshd without end to its banner",
        impostor(";[c.send(b'x\\\\n'*999) for _ in iter(int,1)]"),
        ReasonKind.SERVICES,
    ),
    Case("an sshd that accepts and stalls", impostor(""), ReasonKind.SERVICES),
    Case("the watch stopped", "sudo pkill -STOP -x sandbox-entrypo", ReasonKind.SERVICES),
    Case("the watch killed", "sudo pkill -KILL -x sandbox-entrypo; sleep 20", DIED, result=LOST),
    Case("the first process ended", "sudo kill 1; sleep 20", DIED, result=LOST),
    Case("everything killed, as itself", "kill -9 -1; sleep 20", DIED, result=LOST),
    Case("everything killed, as root", "sudo bash -c 'kill -9 -1'; sleep 20", DIED, result=LOST),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_services(lab: Lab, case: Case) -> None:
    lab.check(case)
