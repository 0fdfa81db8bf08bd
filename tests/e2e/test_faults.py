"""A sandbox that is not fit any more is found, recreated, and the reason is recorded."""

from __future__ import annotations

import docker
import pytest

from sandbox.errors import Fault
from tests.e2e.conftest import Keeper, run, until

OTHER_HOST_KEY = """
    rm /run/sandbox/ssh_host_ed25519_key
    ssh-keygen -q -t ed25519 -N "" -f /run/sandbox/ssh_host_ed25519_key
    pkill -HUP -x sshd
"""


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        ("pkill -KILL dockerd", Fault.DOCKER_DEAD),
        (": >/run/sandbox/authorized_keys", Fault.LOGIN_REFUSED),
        (OTHER_HOST_KEY, Fault.HOST_KEY_CHANGED),
        ("pkill -STOP -x sshd", Fault.SSH_DEAD),
        ("chmod 0 /usr/bin/python3.13", Fault.PROBE_FAILED),
        ("rm /usr/bin/sudo", Fault.PROBE_FAILED),
    ],
)
def test_damage_by_a_job_is_found_before_the_next_one(keeper: Keeper, damage: str, fault: Fault) -> None:
    name = run(keeper, f"hostname; sudo sh -c '{damage}'").stdout.split()[0]
    until(f"{name} is condemned", lambda: name in {report.name for report in keeper.client.listing().condemned})
    [report] = [report for report in keeper.client.listing().condemned if report.name == name]
    assert report.fault is fault, report.reason
    result = run(keeper, "hostname; docker info >/dev/null && echo fine")
    assert result.stdout.split()[1:] == ["fine"], result.stderr
    assert result.stdout.split()[0] != name


@pytest.mark.parametrize("how", ["remove", "stop", "kill"])
def test_an_idle_sandbox_that_goes_is_recreated(keeper: Keeper, docker_client: docker.DockerClient, how: str) -> None:
    victim = keeper.ready()[0].name
    container = docker_client.containers.get(victim)
    if how == "remove":
        container.remove(force=True)
    else:
        getattr(container, how)()
    until("it is condemned", lambda: keeper.last_condemned().name == victim)
    assert keeper.last_condemned().fault is (Fault.GONE if how == "remove" else Fault.STOPPED)
    keeper.settle()
    assert victim not in {sandbox.name for sandbox in keeper.ready()}
