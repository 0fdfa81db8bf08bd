"""Fixtures: a misbehaving proxy before the real engine, and the proof that nothing is left."""

import os
import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from pathlib import Path
from secrets import token_hex

import pytest

from sandbox import host
from sandbox.engine import Engine
from sandbox.identity import new_identity
from sandbox.profile import Profile
from sandbox.template import ContainerSpec, InstallationId, SandboxName, container_spec
from tests.faults.engine_proxy import EngineProxy
from tests.waiting import until

HOST = host.look()


def in_this_process() -> tuple[int, int]:
    """How many threads there are, and how many open files."""
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


def nothing_is_left(before: tuple[int, int]) -> bool:
    """Whether there is no more than before, of either; what an earlier test still had then may have gone since."""
    return all(now <= then for now, then in zip(in_this_process(), before, strict=True))


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[EngineProxy]:
    """Before the engine that the environment names."""
    real = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    before = in_this_process()
    with EngineProxy(tmp_path / "docker.sock", real) as proxy:
        yield proxy
    until("the proxy's own threads and files are gone", lambda: nothing_is_left(before))


@pytest.fixture
def direct() -> Engine:
    """The engine without the proxy."""
    return Engine()


@pytest.fixture
def engine(proxy: EngineProxy) -> Engine:
    """The engine as the misbehaving proxy shows it."""
    return Engine(proxy.url)


@pytest.fixture
def installation(direct: Engine) -> Iterator[InstallationId]:
    """Of this test alone; nothing of it is left behind on the engine."""
    installation = InstallationId(token_hex(4))
    yield installation
    direct.remove(installation)
    assert direct.names(installation) == set()


@pytest.fixture
def spec_of(installation: InstallationId, sandbox_image: str, sandbox_runtime: str) -> Callable[[int], ContainerSpec]:
    """What the engine is told to create, by generation."""
    profile = Profile(image=sandbox_image, runtime=sandbox_runtime)

    def spec_of(generation: int) -> ContainerSpec:
        name = SandboxName(installation, generation)
        subnet = IPv4Network((int(IPv4Network("10.213.254.0/24")[0]) + 8 * (generation % 32), 29))
        return container_spec(name, "default", profile, new_identity(str(name)), subnet, HOST)

    return spec_of
