"""A Docker Engine that is restarted under a keeper with a running job: a private engine of the test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from sandbox.evaluation import engine_api, private_engine
from sandbox.evaluation.host import pids_with, stop
from sandbox.evaluation.layout import RUNTIME, Layout
from tests import engines
from tests.e2e.conftest import DEADLINE, Keeper, leased, run, start
from tests.waiting import until


@pytest.fixture(scope="module")
def layout(sandbox_image: str) -> Iterator[Layout]:
    """A private engine that has the sandbox image."""
    with engines.private("rest") as made:
        with subprocess.Popen(["docker", "save", sandbox_image], stdout=subprocess.PIPE) as image:
            subprocess.run(["docker", f"--host={made.url}", "load", "--quiet"], stdin=image.stdout, check=True)
        yield made


@pytest.fixture
def keeper(new_keeper: Callable[..., Keeper], layout: Layout) -> Iterator[Keeper]:
    made = new_keeper(warm=1, engine=layout.url, netns=layout.netns_file, runtime=RUNTIME)
    made.start()
    yield made
    made.stop()


def stop_dockerd(layout: Layout) -> None:
    known_by = str(layout.daemon_json)
    assert all(stop(pid, known_by, DEADLINE) for pid in pids_with(known_by))


def start_dockerd(layout: Layout) -> None:
    """Beside the containerd that goes on, in its namespaces; `private_engine.up` would make new ones."""
    [containerd] = pids_with(str(layout.containerd_toml))
    enter = ["nsenter", f"--target={containerd}", "--mount", "--net"]
    command = [*enter, "dockerd", "--config-file", str(layout.daemon_json)]
    environment = {**os.environ, "PATH": f"{layout.tools}:{os.environ['PATH']}"}
    with layout.log.open("ab") as log:
        subprocess.run(["setsid", "--fork", *command], env=environment, stdout=log, stderr=log, check=True)
    until("the engine answers", lambda: engine_api.answers(layout.url))


def test_without_live_restore_a_running_job_is_lost_and_the_next_one_runs(keeper: Keeper, layout: Layout) -> None:
    job = start(keeper, "sleep 600")
    stop_dockerd(layout)
    private_engine.up(layout, print)
    _, told = job.communicate(timeout=DEADLINE)
    assert job.returncode == 75, told
    assert "The sandbox was lost" in told
    keeper.settle()
    assert run(keeper, "docker info >/dev/null && echo fine").stdout == "fine\n"


def test_with_live_restore_a_running_job_never_notices(keeper: Keeper, layout: Layout) -> None:
    settings = json.loads(layout.daemon_json.read_text())
    layout.daemon_json.write_text(json.dumps(settings | {"live-restore": True}))
    os.kill(int(layout.docker_pid.read_text()), signal.SIGHUP)
    client = docker.DockerClient(base_url=layout.url)
    until("the engine has read it", lambda: client.info()["LiveRestoreEnabled"])
    client.close()
    wait = "until [ -e /tmp/go ]; do sleep 0.1; done"
    job = start(keeper, f"cp /etc/resolv.conf before; {wait}; cmp before /etc/resolv.conf && echo survived")
    sandbox = leased(keeper)
    stop_dockerd(layout)
    start_dockerd(layout)
    Path(f"/proc/{min(sandbox.processes_at_ready)}/root/tmp/go").touch()
    printed, told = job.communicate(timeout=DEADLINE)
    assert (job.returncode, printed) == (0, "survived\n"), told
    keeper.settle()
    assert run(keeper, "docker info >/dev/null && echo fine").stdout == "fine\n"
