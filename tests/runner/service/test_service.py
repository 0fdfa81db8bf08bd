"""The service and its promises over restarts. A real OpenSSH server stands in for the sandboxes."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from runner.errors import BadJobError, BusyError, IllegalMoveError, StateError, StoppingError, WrongModeError
from runner.execution import prepare
from runner.execution.marker import Marker
from runner.job import Job
from runner.outcome import Cancelled, Limit, RunnerStopped, ScriptFailed, Succeeded, TimedOut
from runner.service import record as record_module
from runner.service import service as service_module
from runner.service.limits import Limits
from runner.service.mode import Mode
from runner.service.record import Record
from runner.store.jobs import Jobs, Result
from runner.store.states import JobState
from tests.runner.conftest import hang
from tests.runner.service.conftest import DEADLINE, Host
from tests.runner.service.state import State, locked, service_of
from tests.waiting import eventually

pytestmark = pytest.mark.anyio


def waiting(gate: Path, *, before: str = "echo up", after: str = "echo end") -> Job:
    """A job that says `up`, waits for the gate, and counts its starts beside it."""
    text = f"echo start >>{gate}.starts; {before}; until [ -e {gate} ]; do sleep 0.02; done; {after}"
    return Job(text.encode(), trust_key="default")


async def up(record: Record, wanted: bytes = b"up\n") -> None:
    async with asyncio.timeout(DEADLINE):
        seen = b""
        async for data in record.follow(0):
            seen += data
            if wanted in seen:
                return


async def test_a_waiting_job_is_run_by_the_next_life(host: Host) -> None:
    record = await host.new_service().submit(Job(b"echo hello"))
    async with host.life() as life:
        assert await life.outcome(record.id) == Succeeded()
        assert await life.log(record.id) == b"hello\nrunner: The script succeeded.\n"


async def test_a_running_job_goes_on_over_a_restart_and_its_log_by_offset(host: Host, gate: Path) -> None:
    async with host.life() as first:
        job = (await first.service.submit(waiting(gate, after="seq 20000; exit 7"))).id
        await up(await first.job(job))
        await first.detach()
        assert (await first.job(job)).state is JobState.RUNNING
    gate.touch()
    async with host.life() as second:
        assert (await second.job(job)).state is JobState.RUNNING
        rest = await second.log(job, len("up\n"))
        assert await second.outcome(job) == ScriptFailed(7)
    numbers = "".join(f"{number}\n" for number in range(1, 20001))
    assert rest.decode() == f"{numbers}runner: The script failed with exit code 7.\n"
    assert gate.with_name("gate.starts").read_text() == "start\n"
    assert host.leases.calls == ["give_back:used"]


async def test_more_slots_and_other_labels_hold_at_once(host: Host, gate: Path) -> None:
    async with host.life(slots=1) as life:
        first = await life.service.submit(waiting(gate))
        await up(first)
        second = await life.service.submit(waiting(gate))
        with pytest.raises(BadJobError, match="the label gpu"):
            await life.service.submit(Job(b"true", labels=frozenset({"gpu"})))
        life.service.follow(Limits(2, labels=frozenset({"gpu"})))
        await up(second)
        third = await life.service.submit(Job(b"true", labels=frozenset({"gpu"})))
        life.service.follow(Limits(1, labels=frozenset({"gpu"})))
        gate.touch()
        assert [await life.outcome(record.id) for record in (first, second, third)] == [Succeeded()] * 3


async def test_a_job_in_a_sandbox_prepared_in_advance_goes_on_too(host: Host, gate: Path) -> None:
    async with host.life(standby=True) as first:
        await eventually(lambda: len(host.leases.leases) == 1)
        record = await first.service.submit(waiting(gate))
        await up(record)
        prepared = host.leases.leases[0]
        assert record.marker is not None
        assert record.marker.attempt == prepared.attempt
        await first.detach()
    assert not prepared.over
    gate.touch()
    async with host.life() as second:
        assert await second.outcome(record.id) == Succeeded()
    assert [call for call in prepared.calls if call != "renew"] == ["give_back:used"]


async def test_a_job_that_ended_while_no_runner_lived_has_its_own_outcome(host: Host, gate: Path) -> None:
    async with host.life() as first:
        job = (await first.service.submit(waiting(gate, after=f"echo late; touch {gate}.end; exit 9"))).id
        await up(await first.job(job))
        await first.detach()
    gate.touch()
    await eventually(gate.with_name("gate.end").exists)
    async with host.life() as second:
        assert await second.outcome(job) == ScriptFailed(9)
        assert (await second.log(job)).startswith(b"up\nlate\nrunner: ")


async def test_all_that_run_are_followed_and_new_ones_wait_for_a_slot(host: Host, gate: Path) -> None:
    async with host.life(slots=2) as first:
        running = [(await first.service.submit(waiting(gate))).id for _ in range(2)]
        for job in running:
            await up(await first.job(job))
        new = (await first.service.submit(Job(b"true"))).id
        await first.detach()
    async with host.life(slots=1) as second:
        await eventually(lambda: len(host.leases.resumed) == 2)
        assert (await second.job(new)).state is JobState.QUEUED
        assert len(host.leases.leases) == 2
        gate.touch()
        for job in (*running, new):
            assert await second.outcome(job) == Succeeded()


async def test_an_outcome_is_written_before_the_sandbox_goes_back_however_long_that_takes(
    host: Host, gate: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The trap: with the sandbox gone and no outcome on disk, the next life could only say that the job was lost."""
    monkeypatch.setattr(service_module, "_RETRY", 0.05)
    async with host.life() as life:
        record = await life.service.submit(waiting(gate))
        await up(record)
        with locked(host.state):
            gate.touch()
            await eventually(lambda: "The outcome cannot be written down" in caplog.text)
            # A crash at this moment:
            crashed = Host(host.state.with_name("crashed"), host.sandbox, host.leases, host.settings)
            shutil.copytree(host.state, crashed.state)
            assert (record.state, host.leases.calls) == (JobState.RUNNING, [])
            async with crashed.life() as next_life:
                assert await next_life.outcome(record.id) == Succeeded()
                assert await next_life.log(record.id) == b"up\nend\nrunner: The script succeeded.\n"
        assert await life.outcome(record.id) == Succeeded()


async def test_a_runner_that_stops_leaves_what_it_cannot_write_to_the_next_life(
    host: Host, gate: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service_module, "_RETRY", 0.05)
    monkeypatch.setattr(service_module, "_STOP_DEADLINE", 0.1)
    async with host.life() as life:
        record = await life.service.submit(waiting(gate))
        await up(record)
        with locked(host.state):
            gate.touch()
            await eventually(lambda: "The outcome cannot be written down" in caplog.text)
            life.service.abort("it was told to stop at once.")
            await asyncio.wait_for(life.working, DEADLINE)
            assert host.leases.calls == []
    async with host.life() as later:
        assert await later.outcome(record.id) == Succeeded()


async def test_a_runner_that_stops_is_not_held_up_by_jobs_that_it_cannot_claim(host: Host) -> None:
    service = host.new_service()
    record = await service.submit(Job(b"true"))
    with locked(host.state):
        service.abort("it was told to stop at once.")
        await asyncio.wait_for(service.work(), DEADLINE)
    async with host.life() as life:
        assert await life.outcome(record.id) == Succeeded()


async def test_a_waiting_job_that_is_cancelled_ends_at_once(host: Host, gate: Path) -> None:
    async with host.life(slots=1) as life:
        running = await life.service.submit(waiting(gate))
        queued = await life.service.submit(Job(b"echo never"))
        await up(running)
        await life.service.cancel(queued, "me")
        assert await life.outcome(queued.id) == Cancelled("me")
        assert await life.log(queued.id) == b"runner: The script was cancelled by me.\n"
        assert running.state is JobState.RUNNING
        gate.touch()
        assert await life.outcome(running.id) == Succeeded()
    assert len(host.leases.leases) == 1


@pytest.mark.parametrize("setup_timeout", [None, 0.1])
async def test_a_job_that_waits_for_the_sandbox_in_advance_can_be_ended(
    host: Host, setup_timeout: float | None
) -> None:
    """The trap: that wait heard nothing, for as long as the keeper took."""
    asked = asyncio.Event()

    async def never() -> None:
        asked.set()
        await hang()

    host.leases.trouble["lend"] = never
    async with host.life(standby=True) as life:
        await asyncio.wait_for(asked.wait(), DEADLINE)
        record = await life.service.submit(Job(b"true", trust_key="default", setup_timeout=setup_timeout))
        await eventually(lambda: record.state is JobState.STARTING)
        if setup_timeout is None:
            await life.service.cancel(record, "me")
        await asyncio.wait_for(record.finished.wait(), 20)
        assert record.outcome == (TimedOut(Limit.SETUP) if setup_timeout else Cancelled("me"))


async def test_a_cancelled_job_is_not_run_by_the_next_life(host: Host) -> None:
    record = await host.new_service().submit(Job(b"echo never"))
    await record.cancel("me")
    async with host.life() as life:
        assert await life.outcome(record.id) == Cancelled("me")
    assert host.leases.leases == []


async def test_a_job_that_was_to_be_ended_is_ended_by_the_next_life(host: Host, gate: Path) -> None:
    async with host.life() as first:
        record = await first.service.submit(waiting(gate))
        await up(record)
        await first.detach()
    await record.cancel("me")  # as if the runner had died right after
    async with host.life() as second:
        assert await second.outcome(record.id) == Cancelled("me")
    assert host.leases.calls == ["kill", "give_back:used"]


async def test_a_job_that_waits_for_a_sandbox_waits_again_in_the_next_life(host: Host) -> None:
    host.leases.trouble["lend"] = hang
    async with host.life() as first:
        record = await first.service.submit(Job(b"echo hello"))
        await eventually(lambda: record.state is JobState.STARTING)
        await first.detach()
    del host.leases.trouble["lend"]
    async with host.life() as second:
        assert await second.outcome(record.id) == Succeeded()


async def test_what_cannot_be_read_ends_and_holds_nobody_up(host: Host) -> None:
    earlier = host.new_service()
    odd, good = [await earlier.submit(Job(b"echo hello")) for _ in range(2)]
    with State(host.state).database.transaction("test") as connection:
        connection.execute("UPDATE content SET sealed = x'00' WHERE job = 1")
    async with host.life() as life:
        outcome = await life.outcome(odd.id)
        assert isinstance(outcome, RunnerStopped)
        assert "cannot be read" in outcome.why
        assert await life.outcome(good.id) == Succeeded()
        assert b"cannot be read" in await life.log(odd.id)


async def test_an_outcome_that_a_defect_keeps_from_the_disk_is_not_written_for_ever(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The trap: no number of tries helps, and the job kept its slot."""

    def refused(jobs: Jobs, job_id: str, result: Result) -> None:
        raise IllegalMoveError(f"Job {job_id} cannot move from queued to settled; this is a defect.")

    monkeypatch.setattr(Jobs, "settle", refused)
    async with host.life(slots=1) as life:
        await life.service.submit(Job(b"true"))
        await eventually(lambda: "cannot move from queued to settled" in caplog.text and not life.service.running)
    assert "a defect in the runner; the next life tries again" in caplog.text


@pytest.fixture
def lock_at_the_start(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Another program locks the database right before a marker is written, until a test calls this."""
    monkeypatch.setattr(record_module, "_RETRY", 0.01)
    mark, lock = Jobs.mark, ExitStack()

    def locking(jobs: Jobs, job_id: str, marker: Marker) -> None:
        if not locking_once:
            locking_once.append(job_id)
            lock.enter_context(locked(host.state))
        mark(jobs, job_id, marker)

    locking_once: list[str] = []
    monkeypatch.setattr(Jobs, "mark", locking)
    with lock:
        yield lock.close


NOT_WRITTEN = "The start cannot be written down: Another program holds the database locked"


async def test_a_job_whose_marker_cannot_be_written_starts_when_it_can(
    host: Host, lock_at_the_start: Callable[[], None], caplog: pytest.LogCaptureFixture, gate: Path
) -> None:
    """The trap: it certainly did not start, and ended as setup_failed because a backup took three seconds."""
    async with host.life() as life:
        record = await life.service.submit(Job(f"echo start >>{gate}; exit 3".encode()))
        await eventually(lambda: caplog.text.count(NOT_WRITTEN) > 1)
        assert (record.state, gate.exists()) == (JobState.STARTING, False)
        lock_at_the_start()
        assert await life.outcome(record.id) == ScriptFailed(3)
    assert (host.leases.calls, gate.read_text()) == (["give_back:used"], "start\n")


async def test_each_try_to_write_a_marker_counts_the_timeout_anew(
    host: Host, lock_at_the_start: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later life would else count the time for which the disk was full as the script's."""
    tried: list[Marker] = []
    mark = Jobs.mark

    def noting(jobs: Jobs, job_id: str, marker: Marker) -> None:
        tried.append(marker)
        mark(jobs, job_id, marker)

    monkeypatch.setattr(Jobs, "mark", noting)
    async with host.life() as life:
        record = await life.service.submit(Job(b"true"))
        await eventually(lambda: len(tried) > 2)
        lock_at_the_start()
        assert await life.outcome(record.id) == Succeeded()
    starts = [marker.started.seconds for marker in tried]
    assert starts == sorted(set(starts))


@pytest.mark.parametrize("end", ["cancel", "setup_timeout"])
async def test_a_job_whose_marker_cannot_be_written_can_be_ended(
    host: Host, lock_at_the_start: Callable[[], None], caplog: pytest.LogCaptureFixture, end: str
) -> None:
    async with host.life() as life:
        record = await life.service.submit(Job(b"true"))
        await eventually(lambda: NOT_WRITTEN in caplog.text)
        if end == "cancel":
            await life.service.cancel(record, "me")
        else:
            record.cancellation.expire(Limit.SETUP)
        await eventually(lambda: host.leases.calls == ["give_back:unused"])
        lock_at_the_start()
        assert await life.outcome(record.id) == (Cancelled("me") if end == "cancel" else TimedOut(Limit.SETUP))


@pytest.mark.parametrize("end", ["stop", "detach"])
async def test_a_job_whose_marker_cannot_be_written_is_left_to_the_next_life(
    host: Host, lock_at_the_start: Callable[[], None], caplog: pytest.LogCaptureFixture, end: str
) -> None:
    async with host.life() as life:
        record = await life.service.submit(Job(b"true"))
        await eventually(lambda: NOT_WRITTEN in caplog.text)
        getattr(life.service, end)()
        await asyncio.wait_for(life.working, DEADLINE)
        assert host.leases.calls == ["give_back:unused"]
    lock_at_the_start()
    async with host.life() as later:
        assert await later.outcome(record.id) == Succeeded()


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_marker_that_takes_its_time_holds_up_nobody_else(
    host: Host, monkeypatch: pytest.MonkeyPatch, gate: Path, leaves: bool
) -> None:
    """The traps: API, followers and renewals stood still; and whoever left then had sent one half of the job."""
    writing, go_on, mark = threading.Event(), threading.Event(), Jobs.mark

    def slowly(jobs: Jobs, job_id: str, marker: Marker) -> None:
        writing.set()
        assert go_on.wait(DEADLINE)
        mark(jobs, job_id, marker)

    monkeypatch.setattr(Jobs, "mark", slowly)
    async with host.life() as life:
        record = await life.service.submit(Job(f"echo start >>{gate}".encode()))
        await eventually(writing.is_set)
        if leaves:
            life.service.detach()
        go_on.set()
        if not leaves:
            assert await life.outcome(record.id) == Succeeded()
        else:
            await asyncio.wait_for(life.working, DEADLINE)
            assert (record.state, host.leases.calls) == (JobState.QUEUED, ["give_back:unused"])
    monkeypatch.setattr(Jobs, "mark", mark)
    async with host.life() as later:
        assert await later.outcome(record.id) == Succeeded()
    assert gate.read_text() == "start\n"


async def test_a_job_whose_lease_cannot_be_noted_waits_for_that(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "PAUSE", 0.02)
    host.settings = replace(host.settings, source_deadline=3600.0)
    async with host.life() as life:
        claim = life.service.records.claim

        async def claimed(per_key: int) -> Record | None:
            record = await claim(per_key)
            if record:
                lock.enter_context(locked(host.state))
            return record

        with ExitStack() as lock:
            monkeypatch.setattr(life.service.records, "claim", claimed)
            record = await life.service.submit(Job(b"true"))
            await eventually(lambda: "The lease cannot be noted" in life.service.held)
            assert host.leases.leases == []
        assert await life.outcome(record.id) == Succeeded()


@pytest.mark.parametrize("limit", [Limit.QUEUE, Limit.SETUP])
async def test_each_limit_before_the_start_ends_the_job_by_its_name(host: Host, limit: Limit) -> None:
    host.leases.trouble["lend"] = hang
    async with host.life(slots=1) as life:
        first = await life.service.submit(Job(b"true"))
        timeout = {"queue_timeout": 0.01} if limit is Limit.QUEUE else {"setup_timeout": 0.01}
        if limit is Limit.SETUP:
            await life.service.cancel(first, "me")
        record = await life.service.submit(Job(b"true", **timeout))  # type: ignore[arg-type]
        assert await life.outcome(record.id) == TimedOut(limit)
        assert f"the job ran into the {limit} timeout".encode() in await life.log(record.id)


async def test_a_job_runs_only_where_its_labels_are(host: Host) -> None:
    """Also one that waited while the runner lost a label."""
    job = Job(b"true", labels=frozenset({"gpu"}))
    state = State(host.state)
    service = service_of(state, host.leases, Limits(1, labels=frozenset({"gpu", "fast"})))
    record = await service.submit(job)
    async with host.life() as life:
        with pytest.raises(BadJobError, match="the label gpu, and this one has: none"):
            await life.service.submit(job)
        assert "the label gpu" in str(await life.outcome(record.id))
    assert host.leases.leases == []


async def test_secrets_are_masked_over_a_restart_in_the_middle_of_one(host: Host, gate: Path) -> None:
    """The trap: masks change the offsets, so a log that goes on where its file ends would go on elsewhere."""
    wait = f"until [ -e {gate} ]; do sleep 0.02; done"
    script = f'printf "up\n%s|%s" "$S" "${{S%??????}}"; {wait}; printf "%s\n" "${{S#?????????}}"'
    secret = Job(script.encode(), trust_key="default", secrets={"S": "hunter2-hunter2"})
    async with host.life() as first:
        job = (await first.service.submit(secret)).id
        await up(await first.job(job), b"[masked]|")
        await first.detach()
    gate.touch()
    async with host.life() as second:
        assert await second.outcome(job) == Succeeded()
        assert await second.log(job) == b"up\n[masked]|[masked]\nrunner: The script succeeded.\n"


async def test_one_trust_key_takes_no_more_slots_than_it_may(host: Host, gate: Path) -> None:
    async with host.life(slots=3, per_key=1) as life:
        jobs = [await life.service.submit(waiting(gate)) for _ in range(3)]
        other = await life.service.submit(Job(b"true", trust_key="other"))
        assert await life.outcome(other.id) == Succeeded()
        await up(jobs[0])
        assert [job.state for job in jobs[1:]] == [JobState.QUEUED, JobState.QUEUED]
        gate.touch()
        for job in jobs:
            assert await life.outcome(job.id) == Succeeded()


async def test_a_drained_runner_takes_jobs_and_starts_none_until_it_is_resumed(host: Host, gate: Path) -> None:
    async with host.life(slots=2) as life:
        running = await life.service.submit(waiting(gate))
        await up(running)
        await life.service.drain("ops")
        held = await life.service.submit(Job(b"echo late"))
        gate.touch()
        assert await life.outcome(running.id) == Succeeded()
        assert (held.state, life.service.mode, life.service.running) == (JobState.QUEUED, Mode.DRAINING, 0)
        await life.service.resume()
        assert await life.outcome(held.id) == Succeeded()


async def test_a_drain_holds_over_restarts_and_an_end_does_not_wait_for_it(host: Host) -> None:
    """The trap: a service that crashes while its host is worked on would start jobs there."""
    first = host.new_service()
    await first.drain("ops")
    job = await first.submit(Job(b"true"))
    cancelled = await first.submit(Job(b"true"))
    async with host.life() as second:
        assert second.service.mode is Mode.DRAINING
        await second.service.cancel(await second.job(cancelled.id), "me")
        assert await second.outcome(cancelled.id) == Cancelled("me")
        assert (await second.job(job.id)).state is JobState.QUEUED
        await second.service.resume()
        assert await second.outcome(job.id) == Succeeded()
    assert State(host.state).jobs.hold() is None


async def test_who_drains_and_who_resumes_at_once_come_one_after_the_other(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: it worked, and what was written last had its next life drain."""
    service = host.new_service()
    jobs, written = service.records.jobs, threading.Event()
    set_hold, end_hold = jobs.set_hold, jobs.end_hold

    def slowly(by: str) -> None:
        written.wait(0.2)  # it must not come meanwhile
        set_hold(by)

    def noted() -> None:
        end_hold()
        written.set()

    monkeypatch.setattr(jobs, "set_hold", slowly)
    monkeypatch.setattr(jobs, "end_hold", noted)
    await asyncio.gather(service.drain("ops"), service.resume())
    assert (service.mode, jobs.hold()) == (Mode.WORKING, None)


async def test_a_drain_that_cannot_be_written_down_holds_nevertheless(host: Host) -> None:
    service = host.new_service()
    with locked(host.state), pytest.raises(StateError, match="drains, but a restart would forget that"):
        await service.drain("ops")
    assert service.mode is Mode.DRAINING


async def test_stop_lets_end_what_runs_and_leaves_what_waits_to_the_next_life(host: Host, gate: Path) -> None:
    async with host.life(slots=1) as life:
        running, queued = [await life.service.submit(waiting(gate)) for _ in range(2)]
        await up(running)
        life.service.stop()
        for ask, error in (
            (life.service.submit(Job(b"true")), StoppingError),
            (life.service.drain("ops"), WrongModeError),
            (life.service.resume(), WrongModeError),
        ):
            with pytest.raises(error):
                await ask
        gate.touch()
        await asyncio.wait_for(life.working, DEADLINE)
        assert (running.outcome, queued.state) == (Succeeded(), JobState.QUEUED)
    async with host.life() as later:
        assert await later.outcome(queued.id) == Succeeded()


async def test_abort_ends_what_runs_and_leaves_what_waits_to_the_next_life(host: Host, gate: Path) -> None:
    async with host.life(slots=1) as life:
        running, queued = [await life.service.submit(waiting(gate)) for _ in range(2)]
        await up(running)
        life.service.abort("it was told twice to stop.")
        await asyncio.wait_for(life.working, DEADLINE)
        assert (running.outcome, queued.state) == (RunnerStopped("it was told twice to stop."), JobState.QUEUED)
    gate.touch()
    async with host.life() as later:
        assert await later.outcome(queued.id) == Succeeded()


async def test_no_more_jobs_wait_than_there_is_room_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "MAX_QUEUED", 1)
    service = host.new_service()
    await service.submit(Job(b"true"))
    with pytest.raises(BusyError):
        await service.submit(Job(b"true"))


@pytest.mark.parametrize(("timeout", "patience"), [(None, 24 * 3600), (60.0, 3661), (30 * 24 * 3600.0, 7 * 24 * 3600)])
async def test_a_sandbox_is_kept_as_long_as_its_job_may_run_and_a_while(
    host: Host, timeout: float | None, patience: float
) -> None:
    assert host.new_service()._settings_for(Job(b"true", timeout=timeout)).patience == patience
