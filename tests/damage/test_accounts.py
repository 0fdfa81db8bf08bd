"""Damage to accounts and their rights: sudo, PAM, shells."""

from __future__ import annotations

import pytest

from sandbox.inspection.judge import ReasonKind
from tests.damage.case import Case
from tests.damage.conftest import Lab

CASES = [
    Case("user renamed", "sudo sed -i 's/^sandbox:/somebody:/' /etc/passwd", ReasonKind.ACCOUNTS),
    Case(
        "shell replaced by one that listens",
        "printf '#!/bin/bash\\nexec bash \"$@\"\\n' >sh2; sudo install sh2 /usr/local/bin/sh2;"
        "sudo sed -i '/^sandbox:/s#/bin/bash#/usr/local/bin/sh2#' /etc/passwd",
        ReasonKind.ACCOUNTS,
        planted="getent passwd sandbox | grep sh2; ls /usr/local/bin/sh2 2>/dev/null",
    ),
    Case("root given a password", "echo root:x | sudo chpasswd", ReasonKind.ACCOUNTS),
    Case("a second root", "echo 'eve:*:0:0::/:/bin/sh' | sudo tee -a /etc/passwd >/dev/null", ReasonKind.ACCOUNTS,
         planted="getent passwd eve"),
    Case("sudoers extended", "echo 'eve ALL=NOPASSWD: ALL' | sudo tee /etc/sudoers.d/eve >/dev/null",
         ReasonKind.ACCOUNTS, planted="sudo ls /etc/sudoers.d/eve 2>/dev/null"),
    Case("sudo taken away", "sudo rm /etc/sudoers.d/sandbox", ReasonKind.ACCOUNTS),
    Case("PAM broken", "echo 'auth required pam_deny.so' | sudo tee /etc/pam.d/sudo >/dev/null", ReasonKind.ACCOUNTS),
    Case("PAM removed", "sudo rm -rf /etc/pam.d", ReasonKind.ACCOUNTS),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_accounts(lab: Lab, case: Case) -> None:
    lab.check(case)
