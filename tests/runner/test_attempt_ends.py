"""Scripts that are ended: by a timeout, by a cancellation, or with their sandbox."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import pytest

from runner.errors import ConnectError, LeaseUnreachableError
from runner.execution import heartbeat, overdue_leases
from runner.execution import marker as marker_module
from runner.execution.attempt import run, run_attempt
from runner.execution.lease import Access
from runner.execution.marker import Marker
from runner.execution.options import Note
from runner.execution.prepare import prepare
from runner.job import Job
from runner.logs import Action
from runner.outcome import (
    BadRequest,
    Cancelled,
    Limit,
    Outcome,
    RunnerStopped,
    SandboxLost,
    ScriptFailed,
    SetupFailed,
    Succeeded,
    TimedOut,
)
from runner.placement import Wanted
from tests.runner.conftest import Bench, FakeLease, FakeLeases, alive, away, connected_pair, hang, lose, refuse
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

STUBBORN = "trap '' TERM; echo $$ ready; while :; do sleep 0.05; done"


async def test_a_timeout(bench: Bench) -> None:
    begin = time.monotonic()
    assert await bench.run("echo before; sleep 300; echo after", timeout=0.3) == TimedOut(Limit.JOB)
    assert 0.3 <= time.monotonic() - begin < 5
    assert bench.output == b"before\n"
    assert bench.leases.calls == ["kill", "give_back:used"]


async def test_a_timeout_of_a_script_that_ignores_term(bench: Bench) -> None:
    begin = time.monotonic()
    assert await bench.run(STUBBORN, timeout=0.3) == TimedOut(Limit.JOB)
    assert time.monotonic() - begin >= 1.3  # the grace of these tests is 1 s
    assert not alive(int(bench.output.split()[0]))


async def test_a_script_may_clean_up_within_the_grace(bench: Bench) -> None:
    script = "trap 'echo cleaned; exit 0' TERM; sleep 300 & wait"
    assert await bench.run(script, timeout=0.3) == TimedOut(Limit.JOB)
    assert bench.output == b"cleaned\n"


async def test_a_cancel(bench: Bench) -> None:
    task = await bench.start("echo ready; sleep 300; echo after")
    bench.cancellation.request("the user")
    assert await task == Cancelled("the user")
    assert bench.output == b"ready\n"
    assert bench.closing == "runner: The script was cancelled by the user.\n"
    assert bench.leases.calls == ["kill", "give_back:used"]


async def test_what_comes_before_the_script_takes_nothing_off_its_timeout(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: a job whose start took long to be written down, on a full disk, timed out as soon as it was sent."""

    async def slow(marker: Marker) -> None:
        later = SimpleNamespace(monotonic=lambda: time.monotonic() + 1000)
        monkeypatch.setattr(marker_module, "time", later)

    job, log = Job(b"true", timeout=60), bench.new_log()
    outcome = await run_attempt(bench.leases, job, log, bench.cancellation, settings=bench.settings, on_start=slow)
    assert outcome == Succeeded()


async def test_a_cancel_of_a_script_that_ignores_term(bench: Bench) -> None:
    task = await bench.start(STUBBORN)
    bench.cancellation.request("Ctrl-C")
    bench.cancellation.request("somebody else")
    assert await task == Cancelled("Ctrl-C")
    assert not alive(int(bench.output.split()[0]))


async def test_a_cancel_whose_kill_fails_condemns(bench: Bench) -> None:
    bench.leases.trouble["kill"] = refuse
    task = await bench.start("echo ready; sleep 300")
    bench.cancellation.request("the user")
    assert await task == Cancelled("the user")
    assert bench.leases.calls == ["kill", "condemn:Processes of the job may be left in it."]


async def test_transport_errors_after_a_cancel_are_noise(bench: Bench) -> None:
    async def cut() -> None:
        bench.sandbox.cut()

    bench.leases.trouble["kill"] = cut
    task = await bench.start(STUBBORN)
    bench.cancellation.request("the user")
    bench.sandbox.cut()
    assert await task == Cancelled("the user")
    assert bench.leases.calls == ["kill", "give_back:used"]


async def test_a_cancelled_task_ends_the_job_first(bench: Bench) -> None:
    task = await bench.start(STUBBORN)
    for _ in range(3):  # impatience changes nothing
        task.cancel()
        await asyncio.sleep(0.05)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.leases.calls == ["kill", "give_back:used"]
    assert isinstance(bench.cancellation.cause, RunnerStopped)
    assert "runner: The runner was stopped: Its task was cancelled.\n" in bench.closing
    assert not alive(int(bench.output.split()[0]))


async def test_a_cancel_before_anything(bench: Bench) -> None:
    bench.cancellation.request("the user")
    assert await bench.run("echo ran") == Cancelled("the user")
    assert bench.output == b""
    assert not bench.leases.calls or bench.leases.calls == ["give_back:unused"]


async def test_ssh_killed_before_the_hello_is_tried_again(bench: Bench) -> None:
    def broken() -> Access:
        access = bench.sandbox.access()
        bench.sandbox.cut()
        bench.leases.new_access = bench.sandbox.access
        return access

    bench.leases.new_access = broken
    assert await bench.run("echo ran") == Succeeded()
    first, second = bench.leases.calls
    assert first.startswith("condemn:")
    assert second == "give_back:used"
    assert "retry" in [note.action for note in bench.notes]


async def test_three_broken_sandboxes_are_enough(bench: Bench) -> None:
    def broken() -> Access:
        access = bench.sandbox.access()
        bench.sandbox.cut()
        return access

    bench.leases.new_access = broken
    assert isinstance(await bench.run("echo ran"), SetupFailed)
    assert len(bench.leases.calls) == 3
    assert len({lease.attempt for lease in bench.leases.leases}) == 3


async def test_another_host_key_is_never_talked_to(bench: Bench) -> None:
    def impostor() -> Access:
        access = bench.sandbox.access()
        other = (bench.sandbox.folder / "client_key.pub").read_text()
        return Access(access.socket, access.user, other, access.client_key)

    bench.leases.new_access = impostor
    outcome = await bench.run("echo ran")
    assert isinstance(outcome, SetupFailed)
    assert "another host key" in outcome.why


async def test_a_refused_login(bench: Bench) -> None:
    def wrong() -> Access:
        access = bench.sandbox.access()
        return Access(access.socket, access.user, access.host_key, (bench.sandbox.folder / "host_key").read_text())

    bench.leases.new_access = wrong
    outcome = await bench.run("echo ran")
    assert isinstance(outcome, SetupFailed)
    assert "refused the login key" in outcome.why


async def test_a_silent_sandbox(bench: Bench) -> None:
    held = []

    def silent() -> Access:
        access = bench.sandbox.access()
        access.socket.close()
        ours, theirs = connected_pair()
        held.append(theirs)
        return Access(ours, access.user, access.host_key, access.client_key)

    bench.leases.new_access = silent
    bench.settings = bench.sandbox.settings(open_deadline=0.2)
    outcome = await bench.run("echo ran")
    assert isinstance(outcome, SetupFailed)
    for end in held:
        end.close()


async def test_a_killed_supervisor(bench: Bench) -> None:
    task = await bench.start("echo ready; sleep 300")
    os.kill(bench.record["supervisor"][0], signal.SIGKILL)
    outcome = await task
    assert isinstance(outcome, SandboxLost)
    assert "supervisor in the sandbox is gone" in outcome.why


async def test_a_lease_that_is_taken_away(bench: Bench) -> None:
    bench.leases.term = 0.3
    task = await bench.start("echo ready; sleep 300")
    bench.leases.trouble["renew"] = lose
    outcome = await task
    assert outcome == SandboxLost("The lease was taken away while the script was running. The lease is gone.")


async def test_nothing_is_heard_any_more_of_a_script_whose_outcome_is_told(bench: Bench) -> None:
    """The trap: a full disk holds its end up for minutes, and what the script writes then came into the log."""
    seen: list[Outcome] = []

    async def told(outcome: Outcome) -> None:
        await eventually(lambda: all(server.poll() is not None for server in bench.sandbox.servers))
        seen.append(outcome)

    bench.leases.term = 0.3
    log, job = bench.new_log(), Job(b"while :; do echo more; sleep 0.01; done")
    task = asyncio.create_task(
        run_attempt(bench.leases, job, log, bench.cancellation, settings=bench.settings, on_end=told)
    )
    await bench.until_output(b"more")
    bench.leases.trouble["renew"] = lose
    outcome = await task
    assert (type(outcome), seen) == (SandboxLost, [outcome])


async def test_a_lease_that_cannot_be_renewed_for_a_while(bench: Bench) -> None:
    bench.leases.term = 0.1
    bench.leases.trouble["renew"] = refuse
    assert await bench.run("sleep 0.5") == Succeeded()
    assert bench.leases.leases[0].calls.count("renew") > 3


async def test_a_source_of_leases_with_a_bug(bench: Bench) -> None:
    async def bug() -> None:
        raise RuntimeError("a bug")

    bench.leases.term = 0.1
    bench.leases.trouble.update(renew=bug, give_back=bug)
    assert await bench.run("sleep 0.3") == Succeeded()
    assert bench.leases.calls == ["give_back:used", "condemn:The sandbox could not be given back."]


async def test_no_sandbox_to_be_had(bench: Bench) -> None:
    bench.leases.trouble["lend"] = refuse
    assert await bench.run("echo ran") == SetupFailed("The keeper says no.")
    assert bench.closing == "runner: The script was not started: The keeper says no.\n"


async def test_a_source_of_leases_that_restarts_is_asked_again(bench: Bench) -> None:
    """For the same lease: the first answer may have been lost on its way."""
    asked: list[int] = []

    async def away() -> None:
        asked.append(len(asked))
        if len(asked) < 3:
            raise LeaseUnreachableError("No keeper answers.")

    bench.leases.trouble["lend"] = away
    assert await bench.run("true") == Succeeded()
    assert [note.action for note in bench.notes].count(Action.LENDING) == 1


async def test_a_sandbox_whose_lease_nobody_heard_of_goes_back(bench: Bench) -> None:
    """The trap: the keeper lent it and went away before it said so, and nobody asked for it again."""

    class Silent(FakeLeases):
        async def lend(
            self, attempt: str, token: str, profile: str, trust_key: str, wait: float, patience: float
        ) -> FakeLease:
            (await super().lend(attempt, token, profile, trust_key, wait, patience)).access.socket.close()
            raise LeaseUnreachableError("The keeper broke off.")

    bench.leases = Silent(bench.sandbox.access)
    bench.settings = bench.sandbox.settings(source_deadline=0, patience=60.0)
    assert await bench.run("true") == SetupFailed("The keeper broke off.")
    await eventually(lambda: bench.leases.calls == ["give_back:unused"])


@pytest.mark.parametrize("question", ["profiles", "lend"])
async def test_a_source_of_leases_that_stays_away(bench: Bench, question: str) -> None:
    bench.settings = bench.sandbox.settings(source_deadline=0)
    bench.leases.trouble[question] = away
    assert await bench.run("true") == SetupFailed("No keeper answers.")


async def test_the_profile_is_what_the_job_asks_for_or_it_is_told_what_there_is(bench: Bench) -> None:
    bench.leases.there = {"default": frozenset(), "big": frozenset({"large"})}
    assert await bench.run("true", labels=frozenset({"large"})) == Succeeded()
    [marker] = bench.markers
    assert marker.profile == "big"
    outcome = await bench.run("true", profile="bgi")
    assert outcome == BadRequest("There is no profile bgi here, but: default, big. Did you mean big?")
    assert bench.notes[-1].action is Action.ENDED
    assert bench.logs[-1].closed


async def test_of_a_keeper_that_tells_no_profiles_any_can_be_asked_for_and_no_label(bench: Bench) -> None:
    """One of an earlier release: it refuses the question."""
    bench.leases.trouble["profiles"] = refuse
    assert await bench.run("true") == Succeeded()
    assert await bench.run("true", profile="big") == Succeeded()
    assert [marker.profile for marker in bench.markers] == ["default", "big"]
    assert isinstance(await bench.run("true", labels=frozenset({"large"})), BadRequest)


async def test_a_sandbox_that_cannot_be_given_back_is_condemned(bench: Bench) -> None:
    bench.leases.trouble["give_back"] = refuse
    assert await bench.run("true") == Succeeded()
    assert bench.leases.calls == ["give_back:used", "condemn:The sandbox could not be given back."]


async def test_a_sandbox_that_nobody_takes_back_is_handed_in_later_as_it_was_meant(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The trap: a keeper that was away for two minutes kept the sandbox for a day, for a job that was over."""
    monkeypatch.setattr(overdue_leases, "INTERVAL", 0.01)
    bench.leases.trouble.update(give_back=away, condemn=away)
    bench.settings = bench.sandbox.settings(return_deadline=0.1)
    assert await bench.run("true") == Succeeded()
    assert "give back: No keeper answers." in caplog.text
    bench.leases.trouble.clear()
    await eventually(lambda: not overdue_leases._tasks)
    given_back, condemned, *later = bench.leases.calls
    assert (given_back, condemned) == ("give_back:used", "condemn:The sandbox could not be given back.")
    assert set(later) == {"give_back:used"}


async def test_a_defect_of_the_runner_keeps_no_sandbox(bench: Bench) -> None:
    """The trap: its lease was renewed for as long as the runner lived."""

    def broken(note: Note) -> None:
        if note.action is Action.ENDED:
            raise KeyError("a bug")

    job, log = Job(b"true"), bench.new_log()
    with pytest.raises(KeyError):
        await run_attempt(bench.leases, job, log, bench.cancellation, settings=bench.settings, notes=broken)
    assert bench.leases.calls == ["condemn:An error of the runner's own ended the attempt in it."]
    assert not [task for task in asyncio.all_tasks() if "Heartbeat" in str(task.get_coro())]


async def test_prepared_and_released(bench: Bench) -> None:
    prepared = await prepare(bench.leases, Wanted("key"), settings=bench.settings)
    assert prepared.usable
    await prepared.release()
    assert bench.leases.calls == ["give_back:unused"]


async def test_prepared_and_broken_while_it_waited(bench: Bench) -> None:
    prepared = await prepare(bench.leases, Wanted("key"), settings=bench.settings)
    bench.sandbox.cut()
    await eventually(lambda: not prepared.usable)
    with pytest.raises(ConnectError):
        await run(prepared, Job(b"true"), bench.new_log(), bench.cancellation)
    assert bench.leases.calls == ["condemn:The sandbox broke while it waited for a job."]
    assert not bench.logs[-1].closed


@pytest.mark.parametrize("step", ["profiles", "lend", "kill", "give_back", "condemn"])
async def test_cancelled_while_a_step_hangs(bench: Bench, step: str) -> None:
    """The wish to end comes while the source of leases hangs: nothing is left, nothing waits for ever."""
    bench.leases.trouble[step] = hang
    bench.settings = bench.sandbox.settings(grace=0.2, return_deadline=0.3)
    if step == "condemn":
        bench.leases.trouble["give_back"] = refuse
    bench.new_log()
    task = asyncio.create_task(bench.run("echo ready; sleep 300", bench.logs[-1]))
    if step not in ("profiles", "lend"):
        await bench.until_output(b"ready")
    else:
        await asyncio.sleep(0.05)
    bench.cancellation.request("the user")
    async with asyncio.timeout(10):
        assert await task == Cancelled("the user")
    assert bench.logs[-1].closed
    others = asyncio.all_tasks() - overdue_leases._tasks
    assert not [other for other in others if "runner/execution" in repr(other)]


@pytest.mark.parametrize("turns", range(1, 60, 3))
async def test_cancelled_after_so_many_turns_of_the_loop(bench: Bench, turns: int) -> None:
    """A cancelled task at any await: the lease goes back exactly once, the log is closed."""
    bench.settings = bench.sandbox.settings(grace=0.2)
    bench.new_log()
    task = asyncio.create_task(bench.run("echo ready; sleep 300", bench.logs[-1]))
    for _ in range(turns):
        await asyncio.sleep(0.004 if turns % 2 else 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.logs[-1].closed
    ends = [call for call in bench.leases.calls if call != "kill"]
    assert len(ends) == len(bench.leases.leases)
    assert all(call.startswith("give_back") for call in ends)


async def failing(bench: Bench, how: str) -> Callable[[], Awaitable[Outcome]]:
    """A script that waits, and fails in this way when the result is called. No heartbeat is due before it ends."""
    go = bench.folder / "go"
    task = await bench.start(f"echo ready; until [ -e {go} ]; do sleep 0.01; done; {how}")
    await eventually(lambda: "renew" in bench.leases.leases[0].calls)  # the one at the start

    async def fail() -> Outcome:
        go.touch()
        return await task

    return fail


@pytest.mark.parametrize("how", ["exit 3", "kill -9 $$"])
async def test_a_script_that_failed_in_a_lost_sandbox_did_not_fail(bench: Bench, how: str) -> None:
    """The trap: without its sysbox every `docker run` in a sandbox fails, long before the next heartbeat."""
    fail = await failing(bench, how)
    bench.leases.trouble["renew"] = lose
    outcome = await fail()
    assert outcome == SandboxLost("The lease was taken away while the script was running. The lease is gone.")


@pytest.mark.parametrize("trouble", [away, refuse, hang])
async def test_a_script_that_failed_has_failed_where_nobody_says_otherwise(
    bench: Bench, trouble: Callable[[], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "ASK_DEADLINE", 0.1)
    fail = await failing(bench, "exit 3")
    bench.leases.trouble["renew"] = trouble
    assert await fail() == ScriptFailed(3)


async def test_a_script_that_succeeded_is_not_asked_about(bench: Bench) -> None:
    fail = await failing(bench, "exit 0")
    bench.leases.trouble["renew"] = lose
    assert await fail() == Succeeded()
