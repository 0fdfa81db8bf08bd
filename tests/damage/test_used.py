"""Ordinary changes by jobs: no damage, but not left to the next job either."""

from __future__ import annotations

import pytest

from sandbox.inspection.judge import ReasonKind
from tests.damage.case import Case
from tests.damage.conftest import Lab

PACKAGE = """
mkdir -p p/DEBIAN p/usr/bin p/usr/lib/tool p/etc/tool
printf 'Package: tool\\nVersion: 1\\nArchitecture: all\\nMaintainer: me\\nDescription: x\\n' >p/DEBIAN/control
printf '#!/bin/sh\\n' >p/usr/bin/tool; chmod 755 p/usr/bin/tool; touch p/usr/lib/tool/x p/etc/tool/conf
dpkg-deb -b p tool.deb >/dev/null && sudo dpkg -i tool.deb >/dev/null
"""

CASES = [
    Case("a package installed", PACKAGE, ReasonKind.SYSTEM, planted="command -v tool; ls /etc/tool 2>/dev/null"),
    Case("files below /opt", "sudo cp /bin/true /opt/tool", ReasonKind.SYSTEM, planted="ls /opt/tool 2>/dev/null"),
    Case("a program of its own below /usr/local", "sudo cp /bin/true /usr/local/bin/tool", ReasonKind.SYSTEM,
         planted="command -v tool"),
    Case("the libraries' cache written", "sudo ldconfig", ReasonKind.SYSTEM),
    Case("another time zone", "echo Etc/UTC | sudo tee /etc/timezone >/dev/null", ReasonKind.SYSTEM),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_used(lab: Lab, case: Case) -> None:
    lab.check(case)
