"""The soak itself: minutes in CI, hours by `make soak SOAK_SECONDS=14400`."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from sandbox.network.ruleset import bridge_prefix, table_name
from sandbox.template import InstallationId, SandboxName
from tests.crash.lab import CrashKeeper
from tests.e2e.conftest import in_network_of_engine, until_only_these_are_left
from tests.e2e.test_service import Service
from tests.faults.engine_proxy import EngineProxy
from tests.soak.lab import CALM, IMAGE, Lab
from tests.soak.plan import Fault, schedule
from tests.soak.verdict import complaints, report
from tests.waiting import until

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or random.randrange(1, 1 << 30)
MORE_FILES, MORE_MEMORY = 10, 60 * 1024
"""What may be more at the end than after the start: a client's connection, and what Python keeps of its allocations."""


@pytest.fixture
def lab(tmp_path: Path, sandbox_runtime: str, sandbox_image: str, docker_client: docker.DockerClient) -> Iterator[Lab]:
    (tmp_path / "keeper").mkdir()
    proxy = EngineProxy(tmp_path / "docker.sock", os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock"))
    keeper = CrashKeeper(tmp_path / "keeper", sandbox_runtime, IMAGE, warm=2, engine=proxy.url)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    runner = Service(keeper, tmp_path / "state", port)
    with proxy:
        lab = Lab(docker_client, proxy, sandbox_image, keeper, runner, SEED)
        lab.refresh_image()
        keeper.start()
        runner.start()
        yield lab
        if runner.process is not None and runner.process.poll() is None:
            # It returns the sandbox that it holds in advance, for which the keeper would wait half a minute.
            runner.signal(signal.SIGQUIT)
            runner.wait()
        runner.api.close()
        keeper.stop()
    for image in lab.images:
        docker_client.images.remove(image, force=True)


def walled(installation: InstallationId) -> set[str]:
    """The bridges that rules in the firewall are about. Its other rules follow the engine's other networks."""
    command = [*in_network_of_engine(), "nft", "list", "table", "inet", table_name(installation)]
    rules = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return set(re.findall(rf'"({bridge_prefix(installation)}[0-9a-f]+)"', rules))


@pytest.mark.timeout(1.2 * SECONDS + 3 * CALM + 300)
def test_nothing_is_lost_started_twice_or_left_whatever_breaks(lab: Lab, docker_client: docker.DockerClient) -> None:
    print(f"seed {SEED}")
    begin = time.monotonic()
    jobs = lab.run(SECONDS, schedule(SEED, SECONDS))
    print(report(jobs, lab.struck, time.monotonic() - begin))
    assert complaints(jobs, lab.struck) == [], f"Again: SOAK_SEED={SEED} make soak"
    assert set(lab.struck) == set(Fault)
    until("idle sandboxes are made from the newest image", lab.on_the_newest_image, CALM)
    lab.upgrade_runner()
    lab.settle()
    before = lab.held()
    assert complaints(lab.run(SECONDS / 12), lab.struck) == []
    lab.settle()
    for process, at_first, at_last in zip(("runner", "keeper"), before, lab.held(), strict=True):
        assert at_last.files <= at_first.files + MORE_FILES, process
        assert at_last.memory <= at_first.memory + MORE_MEMORY, process
    installation = InstallationId(lab.keeper.client.listing().installation)
    sandboxes = [sandbox.name for sandbox in lab.keeper.client.listing().sandboxes]
    until_only_these_are_left(docker_client, installation, sandboxes)
    bridges = {name.bridge for sandbox in sandboxes if (name := SandboxName.read(sandbox))}
    until("the firewall knows just these", lambda: walled(installation) == bridges)
