"""The inner Docker Engine: its processes, sockets, configuration and data."""

from __future__ import annotations

import pytest

from sandbox.inspection.judge import ReasonKind
from tests.damage.case import Case
from tests.damage.conftest import Lab

LISTENER = (
    "import os,socket,sys; os.unlink('/run/docker.sock'); s=socket.socket(socket.AF_UNIX);"
    "s.bind('/run/docker.sock'); s.listen(); os.chmod('/run/docker.sock', 0o666)"
)

CASES = [
    Case("dockerd killed", "sudo pkill -KILL -x dockerd", ReasonKind.SERVICES),
    Case("containerd killed", "sudo pkill -KILL -x containerd", ReasonKind.SERVICES),
    Case("dockerd replaced by another, on vfs",
         "sudo pkill -x dockerd; while pgrep -x dockerd >/dev/null; do sleep 0.05; done;"
         "sudo setsid dockerd --storage-driver vfs >/dev/null 2>&1 & sleep 1", ReasonKind.SERVICES),
    Case("its socket removed", "sudo rm /run/docker.sock", ReasonKind.INNER_DOCKER),
    Case("its socket another's", f'sudo python3 -c "{LISTENER}"', ReasonKind.INNER_DOCKER),
    Case("its socket open to everybody", "sudo chmod 666 /run/docker.sock", ReasonKind.INNER_DOCKER),
    Case("its configuration changed",
         "echo '{\"storage-driver\": \"vfs\"}' | sudo tee /etc/sandbox/daemon.json >/dev/null",
         ReasonKind.INNER_DOCKER, planted="sudo grep vfs /etc/sandbox/daemon.json"),
    Case("the image's configuration changed", "echo '{\"debug\": true}' | sudo tee /etc/docker/daemon.json >/dev/null",
         ReasonKind.INNER_DOCKER, planted="grep debug /etc/docker/daemon.json"),
    Case("certificates for a registry", "sudo mkdir -p /etc/docker/certs.d/registry:5000", ReasonKind.INNER_DOCKER,
         planted="ls /etc/docker/certs.d 2>/dev/null"),
    Case("its layers removed", "sudo rm -rf /var/lib/docker/overlay2", ReasonKind.INNER_DOCKER),
    Case("all its data removed", "sudo find /var/lib/docker -mindepth 1 -delete 2>/dev/null; exit 0",
         ReasonKind.INNER_DOCKER),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_inner_docker(lab: Lab, case: Case) -> None:
    lab.check(case)
