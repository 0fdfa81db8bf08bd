"""The faulty runtime on a private engine, and the reactions of the engine module and of the host's health."""

import os
import time
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple

import docker
import pytest

from sandbox.calls import CallBegan, CallEnded, Listed
from sandbox.engine import Engine, api
from sandbox.errors import EngineError, EngineTimeout
from sandbox.evaluation import packages
from sandbox.health import HostHealth, HostState
from sandbox.identity import new_identity
from sandbox.profile import Profile
from sandbox.template import InstallationId, SandboxName, container_spec
from tests import engines
from tests.faults import faulty_runtime, runtime_control
from tests.faults.conftest import HOST
from tests.faults.runtime_control import Control
from tests.waiting import until

needs_engine = pytest.mark.skipif(
    os.geteuid() != 0 or bool(packages.missing(packages.ENGINE)), reason="needs root, dockerd, iproute2 and iptables"
)


class Faulty(NamedTuple):
    """An engine whose runtime misbehaves on command."""

    url: str
    control: Control


@pytest.fixture(scope="module")
def faulty() -> Iterator[Faulty]:
    with engines.private("fault") as layout:
        control = Control(layout.state / "control")
        try:
            client = docker.APIClient(base_url=layout.url, timeout=60)
            client.import_image_from_data(
                engines.static_root(), repository="tiny", changes=['CMD ["/bin/sleep", "1000"]']
            )
            client.close()
            pid = int(layout.docker_pid.read_text())
            launcher = control.write_launcher(layout.launcher)
            with runtime_control.registered(layout.daemon_json, pid, layout.url, launcher):
                yield Faulty(layout.url, control)
        finally:
            control.clear()


@pytest.fixture
def health() -> HostHealth:
    return HostHealth(time.monotonic())


@pytest.fixture
def engine(faulty: Faulty, health: HostHealth, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    def watch(event: CallBegan | Listed | CallEnded) -> None:
        health.observe(event, time.monotonic())

    for name in ("START_DEADLINE", "REMOVE_DEADLINE", "PROBE_DEADLINE"):
        monkeypatch.setattr(api, name, 5.0)
    engine = Engine(faulty.url, watch)
    yield engine
    faulty.control.clear()
    until("nothing is left", lambda: _removed(engine), 20)


OURS = InstallationId(token_hex(4))


def _removed(engine: Engine) -> bool:
    try:
        engine.remove(OURS)
    except EngineError:  # an earlier removal is still going on
        return False
    return not engine.names(OURS)


def started(engine: Engine, generation: int) -> str:
    profile = Profile(image="tiny:latest", runtime=runtime_control.NAME)
    name = SandboxName(OURS, generation)
    subnet = IPv4Network(f"10.213.253.{8 * generation}/29")
    spec = container_spec(name, "default", profile, new_identity(str(name)), subnet, HOST)
    engine.create_network(spec)
    made = engine.create(spec)
    engine.start(made)
    return made


@needs_engine
def test_without_orders_it_is_the_real_one(faulty: Faulty, engine: Engine) -> None:
    made = started(engine, 1)
    engine.probe(made)
    facts = engine.facts(made)
    assert (facts.running, facts.runtime) == (True, runtime_control.NAME)
    assert {("create", made), ("start", made), ("ps", made)} <= set(faulty.control.seen())


@needs_engine
def test_a_start_that_fails_is_told_with_the_runtimes_words(faulty: Faulty, engine: Engine) -> None:
    faulty.control.fail("create", "DeadlineExceeded: no answer from sysbox-fs")
    with pytest.raises(EngineError, match=r"'start'.*DeadlineExceeded: no answer from sysbox-fs"):
        started(engine, 2)


@needs_engine
def test_a_removal_hangs_while_the_engine_answers_and_completes_when_the_runtime_goes_on(
    faulty: Faulty, engine: Engine, health: HostHealth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As sysbox's open deadlock: what needs the runtime hangs, the engine answers and says that the container runs.

    The trap: an engine may hold a lock meanwhile that `inspect` of the same container waits for (seen with Docker
    20.10), so the listing alone is the engine's heartbeat.
    """
    first, second = started(engine, 3), started(engine, 4)
    engine.owned(OURS)
    monkeypatch.setattr(api, "REMOVE_DEADLINE", 0.5)
    for verb in ("kill", "ps"):
        faulty.control.hang(verb)
    with pytest.raises(EngineTimeout, match="'remove container'"):
        engine.remove(OURS, str(SandboxName(OURS, 3)))
    assert {found.id: found.running for found in engine.owned(OURS)} == {first: True, second: True}
    assert health.look(time.monotonic()) is HostState.SUSPECT
    monkeypatch.setattr(api, "PROBE_DEADLINE", 0.5)
    with pytest.raises(EngineTimeout, match="'list processes'"):
        engine.probe(second)
    assert health.look(time.monotonic()) is HostState.WEDGED
    faulty.control.clear()
    until("the queued removal completes", lambda: first not in {found.id for found in engine.owned(OURS)}, 20)
    assert health.look(time.monotonic()) is HostState.WELL


@needs_engine
def test_one_container_alone_can_be_held(faulty: Faulty, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    held, other = started(engine, 5), started(engine, 6)
    monkeypatch.setattr(api, "PROBE_DEADLINE", 0.5)
    faulty.control.hang("ps", held)
    engine.probe(other)
    with pytest.raises(EngineTimeout):
        engine.probe(held)
    faulty.control.clear()
    engine.probe(held)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"--root /run/x --log /l --log-format json create --bundle /b --pid-file /p {'a' * 64}", ("create", "a" * 64)),
        (f"--root /run/x kill --all {'b' * 64} 9", ("kill", "b" * 64)),
        ("features", ("features", "")),
        ("--version", ("", "")),
    ],
)
def test_the_command_line_is_understood(line: str, expected: tuple[str, str]) -> None:
    assert faulty_runtime.verb_and_container(line.split()) == expected


def test_an_order_for_another_container_is_none(tmp_path: Path) -> None:
    control = Control(tmp_path)
    control.hang("delete", "abc")
    assert faulty_runtime.order_for(tmp_path, "delete", "abcdef") == ["hang"]
    assert faulty_runtime.order_for(tmp_path, "delete", "def") == []
    assert faulty_runtime.order_for(tmp_path, "kill", "abcdef") == []
    with pytest.raises(ValueError, match="none of"):
        control.hang("remove")
