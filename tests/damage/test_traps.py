"""Files made to stop, mislead or flood a program that looks at them."""

from __future__ import annotations

import pytest

from sandbox.inspection.judge import ReasonKind
from tests.damage.case import Case
from tests.damage.conftest import Lab

CASES = [
    Case("a sparse file, as large as there can be", "sudo truncate -s 15T /opt/huge", ReasonKind.SYSTEM,
         planted="ls /opt/huge 2>/dev/null"),
    Case("a FIFO for a file", "sudo rm /etc/bash.bashrc; sudo mkfifo /etc/bash.bashrc", ReasonKind.START_UP),
    Case("a link to itself", "sudo rm /etc/profile; sudo ln -s /etc/profile /etc/profile", ReasonKind.START_UP),
    Case("a link for a folder that is emptied", "sudo rm -rf /var/tmp; sudo ln -s /etc /var/tmp",
         ReasonKind.JOB_FOLDERS),
    Case("names that steer a terminal",
         "sudo mkdir -p /etc/cron.d; sudo touch $'/etc/cron.d/\\e]0;x\\a\\n\\xff'", ReasonKind.SCHEDULED),
    Case("very many files", "sudo python3 -c 'import os; os.mkdir(\"/opt/many\"); os.chdir(\"/opt/many\");"
         " [os.close(os.open(str(n), os.O_CREAT)) for n in range(51000)]'", ReasonKind.TOO_MUCH),
    Case("very deep folders", "cd /opt; for n in {1..150}; do sudo mkdir d; cd d; done", ReasonKind.TOO_MUCH),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_traps(lab: Lab, case: Case) -> None:
    lab.check(case)
