"""Jobs that use up processes, memory or disk. The sandbox recovers, and the next job finds nothing of it."""

from __future__ import annotations

import pytest

from tests.damage.case import Case
from tests.damage.conftest import Lab

CASES = [
    Case("a fork bomb", "b() { b | b & }; (b) 2>&- & sleep 2", planted="ps -e --no-headers | wc -l | grep ..."),
    Case("a memory hog", "python3 -c 'x = bytearray(3 << 30)'; [ $? = 137 ]"),
    Case("a file that fills the disk", "fallocate -l 2G big; ln big /tmp/hardlink", planted="find . /tmp -mindepth 1"),
    Case("shared memory that is never given back", "head -c 50M /dev/zero >/dev/shm/x", planted="ls -A /dev/shm"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_resources(lab: Lab, case: Case) -> None:
    lab.check(case)
