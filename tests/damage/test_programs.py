"""Damage to programs, libraries, and the files that they read when they start."""

from __future__ import annotations

import pytest

from sandbox.inspection.judge import ReasonKind
from tests.damage.case import Case
from tests.damage.conftest import Lab

THIEF = '#!/bin/sh\\nenv >>/var/tmp/loot; exec /usr/bin/real-{} "$@"\\n'


def wrapped(program: str) -> str:
    """A wrapper in the program's place that notes the next job's credentials."""
    return (
        f"sudo mv /usr/bin/{program} /usr/bin/real-{program}; printf '{THIEF.format(program)}'"
        f" | sudo tee /usr/bin/{program} >/dev/null; sudo chmod 755 /usr/bin/{program}"
    )


CASES = [
    *(
        Case(f"{program} wrapped", wrapped(program), ReasonKind.PROGRAMS, planted=f"ls /usr/bin/real-{program} 2>&-")
        for program in ("docker", "git", "python3")
    ),
    Case("bash replaced",
         "sudo cp /bin/dash /bin/bash.new && sudo mv /bin/bash.new /usr/bin/bash", ReasonKind.PROGRAMS),
    Case(
        "git in a place that is searched first",
        "printf '#!/bin/sh\\n' | sudo tee /usr/local/bin/git >/dev/null; sudo chmod 755 /usr/local/bin/git",
        ReasonKind.SHADOWED,
        planted="ls /usr/local/bin/git 2>/dev/null",
    ),
    Case("curl removed", "sudo rm /usr/bin/curl", ReasonKind.PROGRAMS),
    Case("su without its rights", "sudo chmod u-s /usr/bin/su", ReasonKind.PROGRAMS),
    Case(
        "a docker plugin",
        "sudo install -D /bin/true /usr/local/lib/docker/cli-plugins/docker-buildx",
        ReasonKind.PROGRAMS,
        planted="ls /usr/local/lib/docker/cli-plugins/docker-buildx 2>/dev/null",
    ),
    Case("ld.so.preload", "sudo touch /etc/ld.so.preload", ReasonKind.LIBRARIES,
         planted="ls /etc/ld.so.preload 2>/dev/null"),
    Case("the C library changed", "sudo touch /lib/*/libc.so.6", ReasonKind.LIBRARIES),
    Case("a profile file", "echo 'env >/var/tmp/loot' | sudo tee /etc/profile.d/zz.sh >/dev/null", ReasonKind.START_UP,
         planted="ls /etc/profile.d/zz.sh 2>/dev/null"),
    Case("bash's start-up file", "echo 'alias docker=:' >>~/.bashrc", ReasonKind.START_UP, planted="cat ~/.bashrc"),
    Case("environment for every session", "echo 'LD_PRELOAD=/x.so' | sudo tee -a /etc/environment >/dev/null",
         ReasonKind.START_UP, planted="grep LD_PRELOAD /etc/environment"),
    Case("a system-wide git configuration", "sudo git config --system core.hooksPath /var/hooks", ReasonKind.START_UP,
         planted="git config --system core.hooksPath"),
    Case("a cron job", "echo '* * * * * root id' | sudo tee /etc/crontab >/dev/null", ReasonKind.SCHEDULED,
         planted="ls /etc/crontab 2>/dev/null"),
    Case("a systemd unit", "sudo mkdir -p /etc/systemd/system; printf '[Service]\\nExecStart=/bin/id\\n'"
         " | sudo tee /etc/systemd/system/eve.service >/dev/null", ReasonKind.SCHEDULED,
         planted="ls /etc/systemd/system/eve.service 2>/dev/null"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_programs(lab: Lab, case: Case) -> None:
    lab.check(case)
