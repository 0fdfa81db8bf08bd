"""Faults of an engine, injected between the real engine and the module that talks to it."""

import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from sandbox.calls import CallBegan, CallEnded, Listed, Step
from sandbox.engine import Engine, NameTaken, api
from sandbox.errors import EngineError, EngineTimeout, EngineUnreachable
from sandbox.health import HostHealth, HostState
from sandbox.template import ContainerSpec, InstallationId
from tests.faults.conftest import in_this_process, nothing_is_left
from tests.faults.engine_proxy import Delay, Drip, EngineProxy, Fault, Flood, Garbage, Hold, Refuse, Stall, Swallow
from tests.waiting import until

Spec = Callable[[int], ContainerSpec]
SHORT = 0.4


@pytest.fixture
def short_removal(monkeypatch: pytest.MonkeyPatch) -> None:
    """For those that hang. Not for all: beside other tests the engine may take longer for what it does do."""
    monkeypatch.setattr(api, "REMOVE_DEADLINE", SHORT)


def test_what_does_not_misbehave_passes_unchanged(
    engine: Engine, direct: Engine, installation: InstallationId, spec_of: Spec
) -> None:
    made = engine.create(spec_of(1))
    assert engine.facts(made) == direct.facts(made)
    assert engine.owned(installation) == direct.owned(installation) != []
    assert engine.remove(installation) == 1


def test_an_engine_that_refuses_is_told_at_once_and_found_again(
    proxy: EngineProxy, engine: Engine, installation: InstallationId
) -> None:
    proxy.down()
    began = time.monotonic()
    with pytest.raises(EngineUnreachable, match="No Docker Engine answers"):
        engine.owned(installation)
    assert time.monotonic() - began < 1
    proxy.up()
    assert engine.owned(installation) == []


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Stall(1), EngineTimeout),
        (Stall(200), EngineTimeout),
        (Drip(0.02), EngineTimeout),
        (Hold(), EngineTimeout),
        (Delay(60), EngineTimeout),
        (Swallow(), EngineTimeout),
        (Flood(), EngineError),
        (Garbage(), EngineUnreachable),
        (Refuse(), EngineUnreachable),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, type) else "",
)
def test_no_call_outlives_its_deadline_and_nothing_of_it_is_left(
    proxy: EngineProxy, engine: Engine, installation: InstallationId, fault: Fault, kind: type[EngineError]
) -> None:
    """The trap: docker-py's timeouts are per read; an engine that drips would hold a thread and a socket for ever."""
    assert engine.owned(installation) == []
    proxy.misbehave("GET /networks", fault)
    until("the proxy is idle", lambda: proxy.is_idle)
    before = in_this_process()
    began = time.monotonic()
    with pytest.raises(kind):
        engine._call(Step.LIST_NETWORKS, lambda client: client.networks(), SHORT)
    assert time.monotonic() - began < SHORT + 1
    proxy.clear()
    until("nothing is left", lambda: nothing_is_left(before), 1.0)
    assert engine.owned(installation) == []


@pytest.mark.parametrize("fault", [Hold(), Swallow()], ids=["finished later", "finished and not told"])
def test_a_creation_that_finishes_after_it_was_given_up_is_found_and_removed(
    proxy: EngineProxy,
    engine: Engine,
    direct: Engine,
    installation: InstallationId,
    spec_of: Spec,
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trap: the same creation again would make a second one, were it not for the generation in its name."""
    rule = proxy.misbehave("POST /containers/create", fault)
    with monkeypatch.context() as patched:
        patched.setattr(api, "START_DEADLINE", SHORT)
        with pytest.raises(EngineTimeout, match="'create container'"):
            engine.create(spec_of(1))
    rule.release()
    proxy.clear()
    until("it is there after all", lambda: len(direct.owned(installation)) == 1)
    with pytest.raises(NameTaken):
        engine.create(spec_of(1))
    name = str(spec_of(1).name)
    assert [found.name for found in direct.owned(installation)] == [name]

    def is_removed() -> bool:
        with suppress(EngineError):  # a container is listed before its creation has let go of the volume
            engine.remove(installation, name)
        return direct.names(installation) == set()

    until("it is removed", is_removed)


@pytest.mark.usefixtures("short_removal")
def test_a_removal_alone_that_hangs_keeps_nothing_else(
    proxy: EngineProxy, engine: Engine, direct: Engine, installation: InstallationId, spec_of: Spec
) -> None:
    """As under sysbox's open deadlock: removals hang while listing and inspecting answer."""
    made = engine.create(spec_of(1))
    rule = proxy.misbehave("DELETE /containers/*", Hold())
    with pytest.raises(EngineTimeout, match="'remove container'"):
        engine.remove(installation)
    assert engine.facts(made).status == "created"
    assert [found.id for found in engine.owned(installation)] == [made]
    rule.release()
    until("the removal went on", lambda: direct.owned(installation) == [])


@pytest.mark.usefixtures("short_removal")
def test_two_removals_that_hang_are_the_hosts_fault_until_they_go_on(
    proxy: EngineProxy, installation: InstallationId, spec_of: Spec
) -> None:
    health = HostHealth(time.monotonic())

    def watch(event: CallBegan | Listed | CallEnded) -> None:
        health.observe(event, time.monotonic())

    engine = Engine(proxy.url, watch)
    for generation in (1, 2):
        engine.create(spec_of(generation))
    engine.owned(installation)
    rule = proxy.misbehave("DELETE /containers/*", Hold())
    with pytest.raises(EngineTimeout):
        engine.remove(installation, str(spec_of(1).name))
    assert health.look(time.monotonic()) is HostState.SUSPECT
    assert "This sandbox: container" in health.sentence
    with pytest.raises(EngineTimeout):
        engine.remove(installation, str(spec_of(2).name))
    assert health.look(time.monotonic()) is HostState.WEDGED
    assert not health.may_lend
    assert "The host: 2 sandboxes fail at once (remove container hangs)" in health.sentence
    rule.release()
    until("both are gone", lambda: not engine.owned(installation))
    assert health.look(time.monotonic()) is HostState.WELL
    assert health.sentence == ""
