"""A keeper's metrics for Prometheus."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sandbox import health
from sandbox.breaker import IN_A_ROW
from sandbox.calls import CallBegan, CallEnded, End, Step
from sandbox.errors import Fault, NotNow, SandboxFault
from sandbox.health import CreationEnded, HostState
from sandbox.inspection.judge import ReasonKind
from sandbox.keeper import protocol
from sandbox.keeper.exchange import MAX_LINE
from sandbox.network import WallsDown, WallState
from sandbox.state import State
from tests.sandbox.keeper.conftest import Host, World, fail

Value = Callable[..., float | None]


def values(world: World) -> Value:
    """Reads one value out of what the keeper answers, by the name of its series and its labels; None without it."""
    families = list(text_string_to_metric_families(world.keeper.verbs.measure().text))
    samples = {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}
    return lambda name, **labels: samples.get((name, frozenset(labels.items())))


def test_the_pool_is_told_by_profile_and_state(world: World) -> None:
    value = values(world)
    assert value("sandbox_sandboxes", profile="default", state="ready") == 1
    assert value("sandbox_sandboxes", profile="default", state="leased") == 0
    assert value("sandbox_sandboxes", profile="default", state=State.GONE) is None
    assert value("sandbox_warm", profile="default") == 1
    assert value("sandbox_boot_seconds_count", profile="default") == 1
    assert value("sandbox_host_state", state="well") == 1
    assert value("sandbox_breaker_open", profile="default") == 0
    assert value("sandbox_disk_refusing") == 0
    size = value("sandbox_disk_size_bytes", place="/")
    assert size
    assert size > 0
    assert value("sandbox_walls_standing") == 1
    assert value("sandbox_walls_dropped_packets_total", reason="host") == 3


def test_who_reads_the_metrics_changes_nothing(tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, host)
    world.watch.observe(CallBegan(1, Step.LIST))
    monkeypatch.setattr(health, "SUSPICIOUS", 0.0)
    monkeypatch.setattr(health, "SILENCE", 0.0)
    assert values(world)("sandbox_host_state", state="well") == 1
    assert world.watch.state is HostState.WELL
    assert world.watch.look()[0] is HostState.WEDGED
    assert values(world)("sandbox_host_state", state="wedged") == 1


def test_a_job_leaves_its_marks(world: World) -> None:
    grant = world.lend()
    assert values(world)("sandbox_sandboxes", profile="default", state="leased") == 1
    world.host.on_inspect = fail(SandboxFault(Fault.DAMAGED, "It wrote into /etc/shadow.", [ReasonKind.ACCOUNTS]))
    world.give_back(grant)
    world.wait_for_condemned(Fault.DAMAGED)
    value = values(world)
    assert value("sandbox_condemned_total", fault="damaged") == 1
    assert value("sandbox_condemned_total", fault="used") == 0
    assert value("sandbox_findings_total", kind="accounts") == 1
    assert value("sandbox_findings_total", kind="login") == 0
    assert value("sandbox_inspection_seconds_count", after="job") == 1
    assert value("sandbox_lend_seconds_count", profile="default") == 1


def test_who_waits_is_told(world: World) -> None:
    world.lend()
    waiting = threading.Thread(target=_refused, args=(world,))
    waiting.start()
    world.wait_for("waiting", lambda: values(world)("sandbox_requests_waiting", profile="default") == 1)
    world.keeper.verbs.close()
    waiting.join()
    assert values(world)("sandbox_requests_waiting", profile="default") == 0


def test_walls_that_cannot_be_seen_are_told_and_the_rest_as_well(world: World) -> None:
    def gone() -> WallState:
        raise WallsDown("nft is gone.")

    world.host.on_walls = gone
    value = values(world)
    assert value("sandbox_walls_standing") == 0
    assert value("sandbox_walls_dropped_packets_total", reason="host") is None
    assert value("sandbox_warm", profile="default") == 1


def test_calls_to_the_engine_are_counted_by_how_they_end(world: World) -> None:
    for number, end in enumerate((End.ANSWERED, End.TIMED_OUT, End.TIMED_OUT)):
        world.watch.observe(CallBegan(number, Step.REMOVE))
        world.watch.observe(CallEnded(number, end))
    world.watch.observe(CallEnded(99, End.REFUSED))  # of a call that nobody knows
    value = values(world)
    assert value("sandbox_engine_calls_total", step="remove_container", end="timed_out") == 2
    assert value("sandbox_engine_calls_total", step="remove_container", end="answered") == 1
    assert value("sandbox_engine_calls_total", step="remove_container", end="refused") == 0


def test_an_open_breaker_is_told(world: World) -> None:
    for number in range(IN_A_ROW):
        world.watch.observe(CreationEnded("default", f"s-{number}", Fault.SSH_DEAD, "Nothing answers."))
    assert values(world)("sandbox_breaker_open", profile="default") == 1


def test_the_answer_fits_into_a_line_of_the_protocol_by_far(world: World) -> None:
    assert len(protocol.encode_reply(world.keeper.verbs.measure())) < MAX_LINE / 10


def test_no_label_carries_what_a_job_or_a_client_has_chosen(world: World) -> None:
    # The trap: a series for each job, sandbox or sentence. Prometheus keeps every one of them for ever.
    before = set(_series(world))
    for number in range(3):
        grant = world.lend(f"attempt-{number}", key=f"team-{number}")
        world.keeper.verbs.condemn(protocol.Condemn(token=grant.token, reason=f"reason {number}"))
        world.wait_for("another one", lambda: world.states()[-1:] == [State.READY])
    assert set(_series(world)) == before


def _series(world: World) -> list[tuple[str, tuple[str, ...]]]:
    families = text_string_to_metric_families(world.keeper.verbs.measure().text)
    return [(s.name, tuple(sorted(s.labels.values()))) for family in families for s in family.samples]


def _refused(world: World) -> None:
    with pytest.raises(NotNow, match="stopping"):
        world.lend("a2", key="other")


@pytest.fixture
def world(make: Callable[..., World]) -> World:
    world = make()
    world.keeper._storage.start()
    world.wait_for("ready", lambda: world.states() == [State.READY] and world.keeper._storage.rooms)
    return world
