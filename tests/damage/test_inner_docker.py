"""The inner Docker Engine: its processes, sockets, configuration and data."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path

import docker
import pytest

from runner.outcome import Succeeded
from sandbox.engine import Engine
from sandbox.errors import Fault, SandboxFault
from sandbox.inspection.judge import ReasonKind, VerdictKind
from sandbox.keeper.builder import PROOF_DEADLINE, Builder, Built
from sandbox.profile import Profile
from sandbox.template import InstallationId, SandboxName
from tests.damage.case import Case
from tests.damage.conftest import CONFIG, Lab
from tests.e2e.conftest import Keeper

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


@pytest.fixture
def builder() -> Builder:
    return Builder(Engine(), IPv4Network("10.213.0.0/16"))


@pytest.fixture
def idle(builder: Builder, sandbox_runtime: str, sandbox_image: str) -> Iterator[Built]:
    """A sandbox without a keeper."""
    installation = InstallationId(secrets.token_hex(4))
    profile = Profile(runtime=sandbox_runtime, image=sandbox_image)
    try:
        yield builder.build(SandboxName(installation, 1), "default", profile, lambda _: None)
    finally:
        Engine().remove(installation)


UNABLE = "sudo prlimit --pid $(pidof containerd) --nofile=3:3"
"""Inner Docker answers, and can start nothing: its containerd may open no more files. No look from outside shows it."""


def test_what_can_run_no_container_after_a_job_is_found(
    builder: Builder, idle: Built, docker_client: docker.DockerClient
) -> None:
    """The trap: an engine that answers everything, so that each later job would fail as if by its own fault."""
    builder.prove_after_job(idle, container=True)
    inside = docker_client.containers.get(idle.container_id)
    assert inside.exec_run(["sh", "-c", UNABLE], user="sandbox").exit_code == 0
    builder.prove_after_job(idle)
    with pytest.raises(SandboxFault, match="It could not run a container") as caught:
        builder.prove_after_job(idle, container=True)
    assert caught.value.fault is Fault.PROBE_FAILED


def test_a_restarted_keeper_finds_what_can_run_no_container(new_keeper: Callable[..., Keeper], tmp_path: Path) -> None:
    """From a job through a keeper that knows of no container of late: it looks as after a job."""
    keeper = new_keeper(config=CONFIG, warm=1)
    keeper.start()
    lab = Lab(keeper, tmp_path)
    job = lab.run(f"hostname; {UNABLE}")
    assert job.outcome == Succeeded(), job
    keeper.settle()
    keeper.kill()
    keeper.start()
    [found] = keeper.client.listing().condemned
    assert (found.name, found.fault) == (job.output.strip(), Fault.PROBE_FAILED)
    assert lab.run("docker version >/dev/null").outcome == Succeeded()


def test_an_idle_sandbox_is_tried_with_a_container(
    builder: Builder, idle: Built, docker_client: docker.DockerClient
) -> None:
    """The trap: an engine that answers everything and can run nothing. The try itself leaves nothing to be seen."""
    builder.prove_idle(idle)
    assert builder.verdict(idle, time.monotonic() + PROOF_DEADLINE).kind is VerdictKind.CLEAN
    inside = docker_client.containers.get(idle.container_id)
    assert inside.exec_run(["sh", "-c", "docker ps -aq; docker images -aq"]).output == b""
    inside.exec_run("find /var/lib/docker/overlay2 -mindepth 1 -delete")
    with pytest.raises(SandboxFault, match="It could not run a container") as caught:
        builder.prove_idle(idle)
    assert caught.value.fault is Fault.PROBE_FAILED
