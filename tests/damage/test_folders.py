"""Whole folders and file systems: removed, remade, given away, mounted over."""

from __future__ import annotations

import pytest

from sandbox.inspection.judge import ReasonKind
from tests.damage.case import Case
from tests.damage.conftest import Lab

CASES = [
    Case("rm -rf /", "sudo rm -rf --no-preserve-root / 2>/dev/null; exit 0", ReasonKind.FOLDERS),
    *(
        Case(f"rm -rf {folder}", f"sudo rm -rf {folder} 2>/dev/null; exit 0", ReasonKind.FOLDERS)
        for folder in ("/etc", "/usr", "/var", "/run", "/lib64", "/home")
    ),
    Case("/etc/ssh removed and made again", "sudo rm -rf /etc/ssh; sudo mkdir /etc/ssh", ReasonKind.LOGIN),
    Case("/usr/share removed and made again", "sudo rm -rf /usr/share; sudo mkdir /usr/share", ReasonKind.FOLDERS),
    Case("chmod -R 777 /etc", "sudo chmod -R 777 /etc 2>/dev/null; exit 0", ReasonKind.FOLDERS),
    Case("chown -R of programs", "sudo chown -R sandbox /usr/local /usr/sbin 2>/dev/null; exit 0", ReasonKind.FOLDERS),
    Case("/ not to be entered", "sudo chmod 700 /", ReasonKind.FOLDERS),
    Case("/tmp not to be written to", "sudo chmod 755 /tmp", ReasonKind.JOB_FOLDERS),
    Case("the workspace is a link", "cd /; rm -rf ~/workspace; ln -s /etc ~/workspace", ReasonKind.JOB_FOLDERS),
    Case("the attempts' folder removed", "sudo rm -rf /var/lib/attempts; exit 0", ReasonKind.JOB_FOLDERS),
    Case("a tmpfs over /etc", "sudo mount -t tmpfs none /etc", ReasonKind.MOUNTS),
    Case("a tmpfs over programs", "sudo mount -t tmpfs none /usr/local/bin", ReasonKind.MOUNTS),
    Case("a file over another", "touch x; sudo mount --bind x /etc/passwd", ReasonKind.MOUNTS),
    Case("a folder over itself, to be read only", "sudo mount --bind -o ro /usr/lib/git-core /usr/lib/git-core",
         ReasonKind.MOUNTS),
    Case("/ once more, with another path on it", "sudo mount --bind /usr /", ReasonKind.MOUNTS),
    Case("the engine's resolv.conf unmounted", "sudo umount /etc/resolv.conf", ReasonKind.MOUNTS),
    Case("a tmpfs left where nothing is", "sudo mkdir -p /mnt/x; sudo mount -t tmpfs none /mnt/x",
         ReasonKind.OTHER_MOUNTS, planted="ls -d /mnt/x 2>/dev/null"),
    Case("/dev/null is another device", "sudo mount --bind /dev/zero /dev/null", ReasonKind.MOUNTS),
    Case("/dev/fd removed", "sudo rm /dev/fd", ReasonKind.DEVICES),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_folders(lab: Lab, case: Case) -> None:
    lab.check(case)
