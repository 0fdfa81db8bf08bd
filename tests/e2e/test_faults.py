"""A sandbox that is no longer fit is found and recreated, and the reason is recorded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import docker
import pytest

from sandbox.errors import Fault
from sandbox.state import State
from tests.e2e.conftest import DEADLINE, Keeper, leased, run, start
from tests.faults.engine_proxy import EngineProxy, Hold
from tests.waiting import until

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


def test_a_leftover_that_does_not_go_keeps_no_keeper_from_going_on(
    new_keeper: Callable[..., Keeper], tmp_path: Path
) -> None:
    """As under sysbox's open deadlock: removals hang. Whoever starts a killed keeper again gets one that serves."""
    engine = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    with EngineProxy(tmp_path / "docker.sock", engine) as proxy:
        keeper = new_keeper(engine=proxy.url)
        keeper.start()
        job = start(keeper, "until [ -e /tmp/go ]; do sleep 0.1; done; echo survived")
        [left] = [sandbox.name for sandbox in keeper.ready()]
        keeper.kill()
        (keeper.folder / "home" / "sandboxes" / f"{left}.course.json").unlink()
        proxy.misbehave("DELETE /containers/*", Hold())
        keeper.restart()
        states = {sandbox.name: sandbox.state for sandbox in keeper.client.listing().sandboxes}
        assert states[left] is State.DESTROYING
        Path(f"/proc/{min(leased(keeper).processes_at_ready)}/root/tmp/go").touch()
        printed, told = job.communicate(timeout=DEADLINE)
        assert (job.returncode, printed) == (0, "survived\n"), told
        proxy.clear()
        keeper.settle()
        assert left not in {sandbox.name for sandbox in keeper.ready()}
        keeper.stop()


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
