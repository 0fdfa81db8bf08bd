"""A keeper's actions when things go wrong, and their order."""

import logging
import socket
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import cast

import pytest

from sandbox import pool, readiness
from sandbox.config import KeeperConfig
from sandbox.errors import (
    ConfigError,
    EngineError,
    EngineTimeout,
    EngineUnreachable,
    Fault,
    KeeperRefused,
    NotNow,
    RuntimeMissing,
    SandboxFault,
    StorageUnfit,
)
from sandbox.host import HostFacts
from sandbox.inspection.judge import Reason, ReasonKind, Verdict, VerdictKind
from sandbox.keeper import protocol
from sandbox.keeper.guard import Guard
from sandbox.network import Walls, WallsDown, WallState
from sandbox.pool import Want
from sandbox.profile import Network, Profile, Recreate
from sandbox.state import State
from sandbox.template import InstallationId, SandboxName
from tests.sandbox.keeper.conftest import IDENTITY, MARGIN, Host, HostWalls, World, ask, fail, fail_once

# -- starting ---------------------------------------------------------------------------------------------------------


def test_a_missing_runtime_refuses_the_start_before_anything_is_touched(tmp_path: Path, host: Host) -> None:
    host.containers["sandbox-left"] = True
    host.on_check = fail(RuntimeMissing("The runtime is not registered."))
    with pytest.raises(RuntimeMissing):
        World(tmp_path, host).keeper.start()
    assert host.containers == {"sandbox-left": True}


def test_a_storage_that_cannot_be_inspected_refuses_the_start_before_anything_is_touched(
    tmp_path: Path, host: Host
) -> None:
    host.containers["sandbox-left"] = True
    host.on_check_storage = fail(StorageUnfit("Its storage driver is overlayfs."))
    with pytest.raises(StorageUnfit):
        World(tmp_path, host).keeper.start()
    assert host.containers == {"sandbox-left": True}


def test_start_removes_what_an_earlier_life_left(tmp_path: Path, host: Host) -> None:
    world = World(tmp_path, host)
    left = str(SandboxName(world.home.installation, 900))
    host.containers[left] = False
    world.keeper.start()
    assert host.containers == {}
    assert host.calls == [f"remove {left}"]


def test_a_runtime_that_is_not_sysbox_is_said(tmp_path: Path, host: Host, caplog: pytest.LogCaptureFixture) -> None:
    World(tmp_path, host, runtime="userns-runc").keeper.start()
    assert "userns-runc was asked for; it is not the wall" in caplog.text


def test_walls_let_a_new_sandbox_ask_the_resolvers_that_the_host_has_by_then(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Guard(KeeperConfig(profiles={"default": Profile()}), cast(Walls, HostWalls(host)))
    name, facts = SandboxName(InstallationId("0123abcd"), 1), HostFacts(1024, 1500, (IPv4Address("169.254.9.9"),))
    monkeypatch.setattr("sandbox.host.look", lambda: facts)
    guard.admit(name, IPv4Network("10.213.0.8/29"), "default")
    opened = [str(network) for destination in host.walls[name.bridge].policy.open for network in destination.to]
    assert opened == ["169.254.9.9/32"]


# -- lending ----------------------------------------------------------------------------------------------------------


def test_it_lends_what_is_needed_to_log_in(world: World) -> None:
    grant = world.lend()
    assert (grant.sandbox, grant.generation) == (world.host.made[0], 1)
    assert (grant.host_key, grant.client_key) == (IDENTITY.host.public, IDENTITY.client.private)
    assert world.states() == [State.LEASED]


def test_asking_again_gives_the_same_lease(world: World) -> None:
    assert world.lend() == world.lend()


def test_a_request_waits_for_a_sandbox_that_is_being_made(world: World) -> None:
    booting, go = threading.Event(), threading.Event()
    grant = world.lend()

    def slowly() -> None:
        booting.set()
        go.wait(MARGIN)

    world.host.on_build = slowly
    world.keeper.verbs.condemn(protocol.Condemn(token=grant.token, reason="next"))
    assert booting.wait(MARGIN)
    threading.Timer(0.05, go.set).start()
    assert world.lend("a2").sandbox == world.host.made[1]


def test_after_its_wait_a_request_is_refused_with_the_last_trouble(make: Callable[..., World], host: Host) -> None:
    host.on_build = fail(SandboxFault(Fault.SSH_DEAD, "Its sshd never came up."))
    world = make()
    world.wait_for_condemned(Fault.SSH_DEAD)
    began = time.monotonic()
    with pytest.raises(KeeperRefused, match=r"within 0 s.*Its sshd never came up\."):
        world.lend(wait=0.2)
    assert 0.15 < time.monotonic() - began < 0.2 + 1


def test_a_busy_pool_is_no_trouble(world: World) -> None:
    world.lend()
    with pytest.raises(KeeperRefused, match=r"\(1 leased\)\.$"):
        world.lend("a2", wait=0.0)


def test_an_unknown_profile_is_refused_with_the_known_ones(world: World) -> None:
    with pytest.raises(KeeperRefused, match=r"no profile big.*default"):
        world.keeper.verbs.lend(ask(profile="big"))


def test_a_sandbox_that_cannot_be_connected_is_condemned_and_the_next_one_lent(
    world: World, monkeypatch: pytest.MonkeyPatch, connect: Callable[..., socket.socket]
) -> None:
    refusals = [SandboxFault(Fault.SSH_DEAD, "Nothing answers on its SSH port.")]

    def connect_second(*_: object) -> socket.socket:
        if refusals:
            raise refusals.pop()
        return connect()

    monkeypatch.setattr(readiness, "connect", connect_second)
    grant = world.lend()
    assert world.wait_for_condemned(Fault.SSH_DEAD) == world.host.made[0]
    assert grant.sandbox == world.host.made[1]


def test_a_sandbox_that_is_gone_before_its_connection_fails_is_no_defect(
    world: World, monkeypatch: pytest.MonkeyPatch, connect: Callable[..., socket.socket]
) -> None:
    def connect_second(*_: object) -> socket.socket:
        if len(world.host.made) > 1:
            return connect()
        world.host.containers.clear()
        world.wait_for("its removal", lambda: world.host.made[0] not in {s.name for s in world.keeper._stock.pool})
        raise SandboxFault(Fault.SSH_DEAD, "Nothing answers on its SSH port.")

    monkeypatch.setattr(readiness, "connect", connect_second)
    assert world.lend().sandbox == world.host.made[1]


def test_another_trust_key_gets_a_sandbox_of_its_own(world: World) -> None:
    world.give_back(world.lend(key="alice"))
    assert world.lend("a2", key="bob").sandbox == world.host.made[1]
    assert world.condemned() == [(world.host.made[0], Fault.OTHER_TRUST_KEY)]


def test_waiting_requests_do_not_keep_each_other_busy(world: World) -> None:
    world.lend()
    looks, listing = [0], world.keeper._stock.pool.lend

    def lend(*arguments: object) -> object:
        looks[0] += 1
        return listing(*arguments)  # type: ignore[arg-type]

    world.keeper._stock.pool.lend = lend  # type: ignore[assignment,method-assign]

    def ask(attempt: str) -> None:
        with pytest.raises(KeeperRefused):
            world.lend(attempt, wait=0.4)

    threads = [threading.Thread(target=ask, args=(f"b{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(MARGIN)
    # Each looks every 20 ms here, and when another one comes; waking each other they would look thousands of times.
    assert looks[0] < 4 * (0.4 / 0.02) * 3


def test_a_new_request_does_not_overtake_one_that_waits(world: World) -> None:
    world.wait_for("one ready", lambda: world.states() == [State.READY])
    wants = world.keeper._stock.wants
    wants.append(Want("default", "team", came=0.0))  # it has not got to looking yet
    caught: list[str] = []

    def ask() -> None:
        caught.append(world.lend("late").sandbox)

    asking = threading.Thread(target=ask)
    asking.start()
    world.wait_for("its waiting", lambda: len(wants) == 2)
    with pytest.raises(KeeperRefused, match="was ready within"):
        world.lend("later", wait=0.1)
    assert caught == []
    del wants[0]
    asking.join(MARGIN)
    assert caught == world.host.made


def test_a_client_that_went_away_keeps_nothing(world: World) -> None:
    grant = world.lend()
    world.keeper.verbs.take_back(ask())
    assert world.lend("b1", key="another").sandbox == grant.sandbox


def test_a_client_that_hung_up_gets_nothing_although_there_is_one(world: World) -> None:
    world.wait_for("one ready", lambda: world.states() == [State.READY])
    with pytest.raises(NotNow, match="went away"):
        world.keeper.verbs.lend(ask(), lambda: True)
    assert (world.states(), world.keeper._stock.wants) == ([State.READY], [])


def test_the_request_of_a_client_that_hangs_up_is_dropped(world: World) -> None:
    """The trap: for ten minutes idle sandboxes of other trust keys were thrown away for it."""
    grant = world.lend()
    hung_up, caught = threading.Event(), list[str]()

    def wait() -> None:
        try:
            world.keeper.verbs.lend(ask("b1", trust_key="another", wait=600), hung_up.is_set)
        except NotNow as error:
            caught.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    world.wait_for("its waiting", lambda: world.keeper._stock.wants)
    hung_up.set()
    waiting.join(MARGIN)
    assert ("went away" in caught[0], world.keeper._stock.wants) == (True, [])
    world.give_back(grant, used=False)
    assert world.lend("c1", key="a third").sandbox == grant.sandbox


# -- the end of a lease -----------------------------------------------------------------------------------------------


def test_a_used_sandbox_is_cleaned_and_lent_again_to_its_key(world: World) -> None:
    first = world.lend()
    world.give_back(first)
    assert world.lend("a2").sandbox == first.sandbox
    assert "prove after job" in world.host.calls


def test_a_sandbox_in_which_no_container_runs_is_found_after_a_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: inner Docker answers and can run nothing, each job fails, and none is asked in a busy pool."""
    world.host.on_container = fail_once(SandboxFault(Fault.PROBE_FAILED, "It could not run a container."))
    first = world.lend()
    with monkeypatch.context() as patched:
        patched.setattr(pool, "CONTAINER_INTERVAL", 0.0)  # nothing else than the job was there meanwhile
        world.give_back(first)
        assert world.wait_for_condemned(Fault.PROBE_FAILED) == first.sandbox
    assert world.lend("a2").sandbox != first.sandbox


def test_soon_after_one_was_made_no_container_is_run_after_a_job(world: World) -> None:
    world.host.on_container = fail(AssertionError("it costs as much as the rest of the look"))
    first = world.lend()
    world.give_back(first)
    assert world.lend("a2").sandbox == first.sandbox


def test_a_token_is_over_with_its_lease(world: World) -> None:
    first = world.lend()
    world.give_back(first)
    world.lend("a2")
    with pytest.raises(KeeperRefused, match="over"):
        world.keeper.verbs.kill(protocol.Kill(token=first.token))


def test_a_sandbox_that_fails_its_inspection_is_recreated(world: World) -> None:
    world.host.on_inspect = fail_once(SandboxFault(Fault.WRONG_STORAGE_DRIVER, "It is on vfs."))
    first = world.lend()
    world.give_back(first)
    assert world.lend("a2").sandbox != first.sandbox
    assert world.condemned() == [(first.sandbox, Fault.WRONG_STORAGE_DRIVER)]


def test_recreate_always_makes_a_new_one_for_each_job(make: Callable[..., World]) -> None:
    world = make(recreate=Recreate.ALWAYS)
    first = world.lend()
    world.give_back(first)
    assert world.lend("a2").sandbox != first.sandbox
    assert world.condemned() == [(first.sandbox, Fault.RECREATE_POLICY)]


def test_a_vanished_container_is_condemned_under_its_lease(world: World) -> None:
    grant = world.lend()
    world.host.containers.clear()
    assert world.wait_for_condemned(Fault.GONE) == grant.sandbox
    with pytest.raises(KeeperRefused, match="over"):
        world.keeper.verbs.renew(protocol.Renew(token=grant.token))


def test_a_stopped_container_is_condemned(world: World) -> None:
    grant = world.lend()
    world.host.containers[grant.sandbox] = False
    assert world.wait_for_condemned(Fault.STOPPED) == grant.sandbox


def test_a_renewal_sees_that_the_sandbox_has_ended(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the loop that asks the engine comes to it: a stage of a GitLab job waits for this."""
    grant = world.lend()
    monkeypatch.setattr(world.keeper, "reconcile_once", lambda: None)
    world.host.containers.clear()
    with pytest.raises(KeeperRefused, match="does not run any more"):
        world.keeper.verbs.renew(protocol.Renew(token=grant.token))
    with pytest.raises(KeeperRefused, match="over: Its container does not run any more"):
        world.keeper.verbs.renew(protocol.Renew(token=grant.token))


def test_a_lease_that_is_not_renewed_expires(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.pool.LEASE_TERM", 0.1)
    grant = world.lend()
    assert world.wait_for_condemned(Fault.LEASE_EXPIRED) == grant.sandbox


def test_a_lease_that_is_renewed_does_not_expire(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.pool.LEASE_TERM", 0.3)
    grant = world.lend()
    for _ in range(12):
        threading.Event().wait(0.05)  # this test is about time
        world.keeper.verbs.renew(protocol.Renew(token=grant.token))
    assert world.condemned() == []


def test_a_job_that_cannot_be_killed_costs_its_sandbox(world: World) -> None:
    grant = world.lend()
    world.host.on_kill = fail(SandboxFault(Fault.PROCESSES_LEFT, "2 of its job's processes could not be ended."))
    with pytest.raises(KeeperRefused, match="2 of its job's processes"):
        world.keeper.verbs.kill(protocol.Kill(token=grant.token))
    assert world.wait_for_condemned(Fault.PROCESSES_LEFT) == grant.sandbox


def test_a_kill_that_the_engine_does_not_answer_costs_the_sandbox(world: World) -> None:
    grant = world.lend()
    world.host.on_kill = fail(EngineTimeout("The Docker Engine did not finish 'pause' within 30 s."))
    with pytest.raises(KeeperRefused, match="pause"):
        world.keeper.verbs.kill(protocol.Kill(token=grant.token))
    assert world.wait_for_condemned(Fault.ENGINE_FAILED) == grant.sandbox


def test_the_runner_can_condemn(world: World) -> None:
    grant = world.lend()
    world.keeper.verbs.condemn(protocol.Condemn(token=grant.token, reason="sshd hung up"))
    assert world.wait_for_condemned(Fault.CONDEMNED_BY_RUNNER) == grant.sandbox
    assert world.keeper.verbs.listing().condemned[0].reason == "sshd hung up"


def test_a_lease_that_was_taken_away_says_why(world: World) -> None:
    grant = world.lend()
    world.host.containers[grant.sandbox] = False
    world.wait_for_condemned(Fault.STOPPED)
    with pytest.raises(KeeperRefused, match="over: Its container does not run any more: exited"):
        world.keeper.verbs.resume(protocol.Resume(token=grant.token))


@pytest.mark.parametrize(
    ("error", "changed", "expected", "kept"),
    [
        (TimeoutError(), ReasonKind.SYSTEM, NotNow, True),  # the network is cut, and the job behind it goes on
        (TimeoutError(), ReasonKind.NETWORK, KeeperRefused, False),  # the job has cut itself off
        (ConnectionRefusedError(), ReasonKind.SYSTEM, KeeperRefused, False),  # its sshd has ended
    ],
)
def test_a_sandbox_at_work_that_cannot_be_connected_is_lost_only_by_what_its_job_did(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    changed: ReasonKind,
    expected: type[Exception],
    kept: bool,
) -> None:
    grant = world.lend()
    world.host.verdict_of = Verdict(VerdictKind.DAMAGED, (Reason(changed, VerdictKind.DAMAGED, "It was changed."),))

    def connect(*_: object) -> socket.socket:
        raise SandboxFault(Fault.SSH_DEAD, "Nothing answers.") from error

    monkeypatch.setattr(readiness, "connect", connect)
    with pytest.raises(expected):
        world.keeper.verbs.resume(protocol.Resume(token=grant.token))
    assert (State.LEASED in world.states()) is kept


def test_asking_for_a_sandbox_that_does_not_answer_does_not_keep_its_lease(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: a runner that asked every few seconds kept the sandbox for ever, for a job that it could not end."""
    monkeypatch.setattr("sandbox.pool.LEASE_TERM", 0.3)
    grant = world.lend()

    def connect(*_: object) -> socket.socket:
        raise SandboxFault(Fault.SSH_DEAD, "Nothing answers.")

    monkeypatch.setattr(readiness, "connect", connect)

    def over() -> bool:
        with pytest.raises((NotNow, KeeperRefused)) as refused:
            world.keeper.verbs.resume(protocol.Resume(token=grant.token))
        return refused.type is KeeperRefused

    world.wait_for("the end of the lease", over)
    assert world.wait_for_condemned(Fault.LEASE_EXPIRED) == grant.sandbox


def test_a_lease_that_ran_out_while_its_sandbox_was_dialled_is_over(
    world: World, monkeypatch: pytest.MonkeyPatch, connect: Callable[..., socket.socket]
) -> None:
    grant, made = world.lend(), []

    def slow(*_: object) -> socket.socket:
        world.keeper.verbs.condemn(protocol.Condemn(token=grant.token, reason="It ran out."))
        made.append(connect())
        return made[-1]

    monkeypatch.setattr(readiness, "connect", slow)
    with pytest.raises(KeeperRefused, match="over: It ran out"):
        world.keeper.verbs.resume(protocol.Resume(token=grant.token))
    assert made[0].fileno() == -1


# -- looking ----------------------------------------------------------------------------------------------------------


def test_a_sandbox_can_be_looked_at_at_work(world: World) -> None:
    name = world.lend().sandbox
    world.host.verdict_of = Verdict(
        VerdictKind.USED, (Reason(ReasonKind.SYSTEM, VerdictKind.USED, "/opt/tool is new; that matters."),)
    )
    found = world.keeper.verbs.inspect(protocol.Inspect(sandbox=name))
    assert (found.sandbox.state, found.verdict) == (State.LEASED, VerdictKind.USED)
    assert [finding.sentence for finding in found.findings] == ["/opt/tool is new; that matters."]
    assert world.states() == [State.LEASED]


def test_of_a_sandbox_that_is_gone_the_reason_is_kept(world: World) -> None:
    grant = world.lend()
    world.keeper.verbs.condemn(protocol.Condemn(token=grant.token, reason="sshd hung up"))
    world.wait_for("its end", lambda: grant.sandbox not in {s.name for s in world.keeper.verbs.listing().sandboxes})
    found = world.keeper.verbs.inspect(protocol.Inspect(sandbox=grant.sandbox))
    assert (found.verdict, found.sandbox.reason) == (None, "sshd hung up")


# -- a new configuration ----------------------------------------------------------------------------------------------


def test_networks_follow_a_new_configuration_without_recreating(world: World) -> None:
    name = world.lend().sandbox
    world.follow(network="none")
    world.wait_for("the walls", lambda: [w.policy.network for w in world.host.walls.values()] == [Network.NONE])
    assert world.host.made == [name]


def test_a_profile_with_sandboxes_cannot_go_while_the_keeper_runs(world: World) -> None:
    world.lend()
    with pytest.raises(ConfigError, match="lacks default"):
        world.keeper.follow(KeeperConfig(profiles={"other": Profile()}))
    assert world.states() == [State.LEASED]


# -- holding ----------------------------------------------------------------------------------------------------------


def hold(world: World, sandbox: str) -> None:
    world.keeper.verbs.hold(protocol.Hold(sandbox=sandbox, seconds=60))


def test_a_held_sandbox_is_entered_and_released(world: World) -> None:
    grant = world.lend()
    hold(world, grant.sandbox)
    with pytest.raises(KeeperRefused, match="leased and not held"):
        world.keeper.verbs.enter(protocol.Enter(sandbox=grant.sandbox))
    world.give_back(grant)
    entrance, connection = world.keeper.verbs.enter(protocol.Enter(sandbox=grant.sandbox))
    connection.close()
    assert (entrance.user, entrance.client_key) == ("sandbox", IDENTITY.client.private)
    world.keeper.verbs.release(protocol.Release(sandbox=grant.sandbox))
    assert world.lend("a2").sandbox == world.host.made[1]


def test_a_hold_ends_by_itself(world: World) -> None:
    name = world.lend().sandbox
    world.keeper.verbs.give_back(protocol.Return(token=ask().token, used=False))
    world.keeper.verbs.hold(protocol.Hold(sandbox=name, seconds=0.05))
    assert world.wait_for_condemned(Fault.HOLD_OVER) == name


@pytest.mark.parametrize("verb", [protocol.Hold(sandbox="x", seconds=1), protocol.Release(sandbox="x")])
def test_an_unknown_sandbox_cannot_be_held_or_released(world: World, verb: protocol.Hold | protocol.Release) -> None:
    answer = world.keeper.verbs.hold if isinstance(verb, protocol.Hold) else world.keeper.verbs.release
    with pytest.raises(KeeperRefused, match="no sandbox x; `sandbox ls`"):
        answer(verb)  # type: ignore[arg-type]


def test_what_is_being_inspected_may_be_held_and_its_verdict_changes_nothing(world: World) -> None:
    looking, go = threading.Event(), threading.Event()

    def look() -> None:
        looking.set()
        go.wait(MARGIN)
        raise SandboxFault(Fault.DOCKER_DEAD, "Its Docker Engine does not answer.")

    grant = world.lend()
    world.host.on_inspect = look
    world.give_back(grant)
    assert looking.wait(MARGIN)
    hold(world, grant.sandbox)
    go.set()
    world.keeper._workers.stop(wait=True)
    world.keeper.verbs.enter(protocol.Enter(sandbox=grant.sandbox))[1].close()
    assert world.states() == [State.HELD]


# -- walls ------------------------------------------------------------------------------------------------------------


def without_walls(error: WallsDown) -> Callable[[], WallState]:
    def ensure() -> WallState:
        raise error

    return ensure


def test_every_sandbox_that_was_started_has_a_wall_and_its_profiles_policy(make: Callable[..., World]) -> None:
    world = make(network="none")
    generation = world.lend().generation
    [(bridge, wall)] = world.host.walls.items()
    assert bridge == SandboxName(world.home.installation, generation).bridge
    assert (wall.subnet, wall.policy.network) == (IPv4Network("10.213.0.8/29"), Network.NONE)


def test_nothing_is_lent_without_walls(world: World) -> None:
    world.wait_for("a sandbox", lambda: world.states() == [State.READY])
    world.host.on_walls = without_walls(WallsDown("nft did not finish."))
    with pytest.raises(NotNow, match=r"no walls around it\. nft did not finish"):
        world.lend()
    world.host.on_walls = lambda: WallState.STANDING
    assert world.lend("a2").sandbox == world.host.made[0]


def test_walls_that_were_taken_away_are_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.host.on_walls = lambda: WallState.PUT_BACK
    world.lend()
    assert "somebody had removed or changed the walls" in caplog.text


def test_walls_that_cannot_stand_refuse_the_start(tmp_path: Path, host: Host) -> None:
    host.on_walls = without_walls(WallsDown("There is no `nft` command."))
    with pytest.raises(WallsDown):
        World(tmp_path, host).keeper.start()


# -- trouble ----------------------------------------------------------------------------------------------------------


def test_a_defect_while_making_one_does_not_cost_its_place(make: Callable[..., World], host: Host) -> None:
    host.on_build = fail_once(ZeroDivisionError())
    world = make()
    assert world.lend().sandbox == host.made[1]
    assert world.condemned() == [(host.made[0], Fault.KEEPER_DEFECT)]


def test_a_defect_while_inspecting_does_not_cost_its_place(world: World) -> None:
    world.host.on_inspect = fail_once(ZeroDivisionError())
    world.give_back(world.lend())
    assert world.lend("a2").sandbox == world.host.made[1]
    assert world.condemned() == [(world.host.made[0], Fault.KEEPER_DEFECT)]


def test_a_defect_while_removing_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.pool.STUCK_RETRY", 0.05)
    world.host.on_remove = fail_once(ZeroDivisionError())
    grant = world.lend()
    world.keeper.verbs.condemn(protocol.Condemn(token=grant.token, reason="next"))
    world.wait_for("its removal", lambda: grant.sandbox not in world.host.containers)


def test_a_removal_that_fails_is_stuck_and_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.pool.STUCK_RETRY", 0.1)
    world.host.on_remove = fail(EngineTimeout("It did not finish 'remove container'."))
    grant = world.lend()
    world.keeper.verbs.condemn(protocol.Condemn(token=grant.token, reason="next"))
    world.wait_for("its being stuck", lambda: State.STUCK in world.states())
    world.host.on_remove = lambda: None
    world.wait_for("its removal", lambda: grant.sandbox not in world.host.containers)


def test_a_removal_that_did_not_reach_the_engine_is_done_once_that_answers(world: World) -> None:
    """The trap: what a restarted engine had not taken away was waited for half a minute, with its place empty."""
    world.host.on_remove = fail_once(EngineUnreachable("No Docker Engine answers."))
    grant = world.lend()
    world.keeper.verbs.condemn(protocol.Condemn(token=grant.token, reason="next"))
    world.wait_for("its removal", lambda: grant.sandbox not in world.host.containers)


def test_a_full_network_range_is_told_in_its_own_words(make: Callable[..., World], host: Host) -> None:
    host.on_build = fail(ConfigError("No subnet is left in the network range."))
    world = make()
    world.wait_for_condemned(Fault.NO_SUBNET)
    assert "No subnet is left" in world.keeper.verbs.ping().message


@pytest.mark.parametrize("error", [EngineError("It refused."), OSError("the disk is full"), ZeroDivisionError()])
def test_the_loop_does_not_die_whatever_a_pass_meets(
    make: Callable[..., World], host: Host, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    passes = threading.Semaphore(0)

    def act() -> None:
        passes.release()
        raise error

    host.on_list = act
    world = make()
    for _ in range(5):
        assert passes.acquire(timeout=MARGIN)
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1  # told, and not with every pass
    host.on_list = lambda: None
    assert world.lend().sandbox == host.made[0]


def test_a_network_without_a_container_is_removed(world: World, host: Host) -> None:
    world.lend()
    host.networks.add("sandbox-half")
    world.keeper._next_leftovers = 0.0
    world.wait_for("its removal", lambda: "sandbox-half" not in host.networks)


def test_ping_tells_what_is_lacking_and_why(make: Callable[..., World], host: Host) -> None:
    host.on_build = fail(SandboxFault(Fault.DOCKER_DEAD, "Its Docker Engine does not answer."))
    world = make()
    world.wait_for_condemned(Fault.DOCKER_DEAD)
    pong = world.keeper.verbs.ping()
    assert not pong.fit
    assert "No sandbox for: default" in pong.message
    assert "Its Docker Engine does not answer." in pong.message


def test_ping_is_content_with_a_sandbox_at_work(world: World) -> None:
    world.lend()
    assert world.keeper.verbs.ping() == protocol.Pong(fit=True, message="ready")


def test_a_listing_tells_whom_a_sandbox_serves_and_no_secret(world: World) -> None:
    grant = world.lend()
    [report] = world.keeper.verbs.listing().sandboxes
    assert (report.attempt, report.trust_key, report.processes_at_ready) == ("a1", "team", [7])
    assert grant.token not in world.keeper.verbs.listing().model_dump_json()


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_stop_waits_for_what_is_lent_and_removes_everything(world: World, host: Host) -> None:
    grant = world.lend()
    stopping = threading.Thread(target=world.stop, args=(MARGIN,))
    stopping.start()
    world.wait_for("stopping", world.keeper._stopping.is_set)
    assert host.containers[grant.sandbox]
    with pytest.raises(NotNow, match="stopping"):
        world.lend("a2")
    world.give_back(grant)
    stopping.join(MARGIN)
    assert not stopping.is_alive()
    assert host.containers == {}


def test_after_its_patience_stop_leaves_running_jobs_and_nothing_else(make: Callable[..., World], host: Host) -> None:
    world = make(warm=2)
    grant = world.lend()
    world.wait_for("another one", lambda: State.READY in world.states())
    began = time.monotonic()
    world.stop(patience=0.2)
    assert time.monotonic() - began < 0.2 + 1
    assert host.containers == {grant.sandbox: True}


def test_a_hurried_stop_leaves_nothing(world: World, host: Host) -> None:
    world.lend()
    world.keeper.hurry()
    world.stop(patience=MARGIN)
    assert host.containers == {}


def test_a_hurried_stop_ends_leases_before_their_sandboxes(world: World, host: Host) -> None:
    """The trap: a runner that asks while its sandbox goes was told to try again, and did so for five minutes."""
    grant = world.lend()
    answers: set[str] = set()

    def resume() -> None:
        with pytest.raises(KeeperRefused) as refused:
            world.keeper.verbs.resume(protocol.Resume(token=grant.token))
        answers.add(str(refused.value))

    host.on_remove = resume
    world.keeper.hurry()
    world.stop(patience=MARGIN)
    assert answers == {"That lease is over: The keeper was told to stop at once."}


def test_a_stop_that_is_told_to_leave_leaves_everything(make: Callable[..., World], host: Host) -> None:
    """The trap: `docker compose up -d` waits for the jobs, USR1 is sent to have them stay, and all were ended."""
    world = make(warm=2)
    grant = world.lend()
    world.wait_for("an idle one", lambda: State.READY in world.states())
    stopping = threading.Thread(target=world.stop, args=(60.0,))
    stopping.start()
    world.wait_for("stopping", world.keeper._stopping.is_set)
    world.keeper.leave()
    stopping.join(MARGIN)
    assert not stopping.is_alive()
    assert list(host.containers.values()) == [True, True]
    world.keeper.verbs.renew(protocol.Renew(token=grant.token))


def test_stop_does_not_wait_for_a_runner_that_is_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.pool.LEASE_TERM", 0.2)
    world.lend()
    began = time.monotonic()
    world.stop(patience=60.0)
    assert time.monotonic() - began < 5


def test_stop_ends_waiting_requests(world: World) -> None:
    world.lend()
    caught: list[str] = []

    def ask() -> None:
        try:
            world.lend("a2", wait=60)
        except NotNow as error:
            caught.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    world.wait_for("its waiting", lambda: world.keeper._stock.wants)
    world.stop()
    asking.join(MARGIN)
    assert "stopping" in caught[0]


def test_stop_removes_what_a_creation_under_way_left(make: Callable[..., World], host: Host) -> None:
    building, go = threading.Event(), threading.Event()

    def late() -> None:
        building.set()
        go.wait(MARGIN)
        host.containers["sandbox-late"] = True

    host.on_build = late
    world = make()
    assert building.wait(MARGIN)
    stopping = threading.Thread(target=world.stop)
    stopping.start()
    world.wait_for("the first removal", lambda: host.calls)
    go.set()
    stopping.join(MARGIN)
    assert host.containers == {}


def test_stop_tries_again_what_did_not_go_and_tells(world: World, host: Host) -> None:
    world.wait_for("a sandbox", lambda: world.states() == [State.READY])
    host.on_remove = fail_once(EngineTimeout("It did not finish 'remove container'."))
    world.stop()
    assert host.containers == {}


def test_stop_tells_what_would_not_go(world: World, host: Host) -> None:
    world.wait_for("a sandbox", lambda: world.states() == [State.READY])
    host.on_remove = fail(EngineTimeout("It did not finish 'remove container'."))
    with pytest.raises(EngineTimeout):
        world.stop()
    world.thread.join(MARGIN)


def test_what_would_not_go_at_a_stop_keeps_nothing_else(make: Callable[..., World], host: Host) -> None:
    world = make(warm=4)
    world.wait_for("its sandboxes", lambda: world.states() == [State.READY] * 4)
    host.unremovable = {host.made[1]}
    with pytest.raises(EngineError, match=host.made[1]):
        world.stop()
    world.thread.join(MARGIN)
    assert host.containers.keys() == host.unremovable


def test_nothing_is_made_once_it_stops(world: World, host: Host) -> None:
    grant = world.lend()
    stopping = threading.Thread(target=world.stop, args=(MARGIN,))
    stopping.start()
    world.wait_for("stopping", world.keeper._stopping.is_set)
    world.keeper.verbs.condemn(protocol.Condemn(token=grant.token, reason="it broke"))
    stopping.join(MARGIN)
    assert host.made == [grant.sandbox]
    assert host.containers == {}
