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
    ("damage", "seen"),
    [
        ("pkill -KILL dockerd", "dockerd"),
        (": >/run/sandbox/authorized_keys", "/run/sandbox/authorized_keys was changed"),
        (OTHER_HOST_KEY, "ssh_host_ed25519_key"),
        ("pkill -STOP -x sshd", "sshd was stopped"),
        ("chmod 0 /usr/bin/python3.13", "/usr/bin/python3.13 was changed"),
        ("rm /usr/bin/sudo", "/usr/bin/sudo was removed"),
    ],
)
def test_damage_by_a_job_is_found_before_the_next_one(keeper: Keeper, damage: str, seen: str) -> None:
    name = run(keeper, f"hostname; sudo sh -c '{damage}'").stdout.split()[0]
    until(f"{name} is condemned", lambda: name in {report.name for report in keeper.client.listing().condemned})
    [report] = [report for report in keeper.client.listing().condemned if report.name == name]
    assert report.fault is Fault.DAMAGED
    assert seen.lower() in str(report.reason).lower()
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
