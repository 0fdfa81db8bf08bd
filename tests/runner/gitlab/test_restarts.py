"""What hooks and service make of a restart: gitlab-runner and the job's log see nothing of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runner.execution.marker import Marker
from runner.gitlab import jobs as jobs_module
from runner.gitlab import stages
from runner.gitlab.record import State
from runner.gitlab.tenancy import Attempt, Tenancy
from runner.gitlab.wire import Done, encode, encode_end
from runner.job import Job
from runner.outcome import Outcome
from tests.runner.conftest import alive, away
from tests.runner.gitlab.conftest import DEADLINE, Lab, Manager, ended, response, terminate
from tests.runner.gitlab.test_hooks import Stage, changed, start
from tests.waiting import eventually

pytestmark = pytest.mark.anyio


async def test_config_says_one_document_though_the_service_ended_after_it(tmp_path: Path) -> None:
    """The trap: what a stage says goes on where it stood, and `config` is told all of it again."""
    manager = Manager(tmp_path / "manager", tmp_path / "gitlab.sock", response())
    answers: Iterator[bytes] = iter((encode(b"o", b'{"one": 1}'), encode(b"o", b'{"two": 2}') + encode_end(Done())))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(json.dumps(manager.response).encode())
        writer.write(next(answers))
        writer.close()

    async with await asyncio.start_unix_server(answer, manager.socket):
        end = await ended(await manager.start("config"))
    assert (end.code, end.err, json.loads(end.out)) == (0, "", {"two": 2})


async def test_the_service_restarts_within_a_stage(lab: Lab) -> None:
    """The hook asks the next life, and the stage goes on at the byte that it has."""
    manager = await lab.prepared()
    stage = await start(manager, "echo ready; while [ ! -e go ]; do sleep 0.05; done; echo after; exit 7")
    await lab.leave()
    Path(lab.options.settings.workspace, "go").touch()
    lab.begin()
    end = await stage.end()
    assert (end.code, end.out) == (1, b"ready\nafter\n")
    assert manager.exit_code == "7\n"
    assert (await manager.run("echo more", "after_script")).out == b"more\n"
    assert (await manager.hook("cleanup")).code == 0
    await eventually(lambda: lab.leases.calls == ["give_back:used"])


async def test_the_service_restarts_within_a_stage_that_is_silent_for_longer_than_a_hook_waits(lab: Lab) -> None:
    """The trap: patience is with a service that is away, and not with a stage that has nothing to say."""
    manager = await lab.prepared()
    script = manager.script("echo ready; sleep 4; : >silent; while [ ! -e go ]; do sleep 0.05; done; echo after")
    hook = changed("client.PATIENCE['run'] = 3.0; client.LOOK = 0.1", "run", script, "build_script")
    stage = Stage(await manager.execute(*hook))
    await stage.until(b"ready")
    folder = Path(lab.options.settings.workspace)
    await eventually((folder / "silent").exists)
    await lab.leave()
    lab.begin()
    (folder / "go").touch()
    end = await stage.end()
    assert (end.code, end.out, end.err) == (0, b"ready\nafter\n", "")


async def test_the_service_restarts_while_the_output_of_an_ended_stage_is_passed_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: a line of ours at the end of the log would be output to the next life."""
    manager = await lab.prepared()
    over, launch = asyncio.Event(), Tenancy.launch

    async def launch_and_tell(
        tenancy: Tenancy, attempt: Attempt, job: Job, on_start: Callable[[Marker], None]
    ) -> Outcome:
        outcome = await launch(tenancy, attempt, job, on_start)
        over.set()
        return outcome

    monkeypatch.setattr(Tenancy, "launch", launch_and_tell)
    stage = Stage(await manager.start("run", manager.script("head -c 5000000 /dev/zero"), "build_script"))
    await asyncio.wait_for(over.wait(), DEADLINE)
    began = time.monotonic()
    await lab.leave()
    assert time.monotonic() - began < jobs_module._LEAVE_DEADLINE
    lab.begin()
    end = await stage.end()
    assert (end.code, end.err) == (0, "")
    assert (len(end.out), end.out.strip(b"\0")) == (5_000_000, b"")


async def test_a_stage_that_is_asked_for_again_says_the_same_again(lab: Lab) -> None:
    manager = await lab.prepared()
    hook = changed("posix.urandom = bytes", "run", manager.script("echo built; exit 3"), "build_script")
    ends = [await ended(await manager.execute(*hook)) for _ in range(3)]
    assert [(end.code, end.said) for end in ends] == [(1, "built\n")] * 3


async def test_a_stage_goes_on_at_the_right_byte_after_output_that_is_not_its_own(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: what we do around a stage writes to the job's log too, and is not in the stage's."""
    monkeypatch.setattr(stages, "reclaim", lambda _: b"#!/bin/sh\nprintf 'as much as follows'\n")
    manager = await lab.prepared()
    await manager.run("true")
    stage = await start(manager, "echo ready; while [ ! -e go ]; do sleep 0.05; done; echo after", "get_sources")
    await lab.leave()
    Path(lab.options.settings.workspace, "go").touch()
    lab.begin()
    assert (await stage.end()).out == b"as much as followsready\nafter\n"


async def test_the_service_restarts_between_stages(lab: Lab) -> None:
    manager = await lab.prepared()
    await manager.run("true")
    await lab.leave()
    lab.begin()
    assert (await manager.run("echo again")).out == b"again\n"
    assert len(lab.leases.leases) == 1


async def test_the_service_restarts_twice_while_no_keeper_answers(lab: Lab) -> None:
    """The trap: a hook that still waits for its sandbox is no earlier hook's, and was told that the job is over."""
    manager = await lab.prepared()
    stage = await start(manager, "echo ready; while [ ! -e go ]; do sleep 0.05; done; echo after")
    await lab.leave()
    lab.leases.trouble["resume"] = away
    lab.begin()
    await eventually(lambda: [live.hooks for live in lab.jobs.live] == [1])
    await lab.leave()
    del lab.leases.trouble["resume"]
    Path(lab.options.settings.workspace, "go").touch()
    lab.begin()
    end = await stage.end()
    assert (end.code, end.out, end.err) == (0, b"ready\nafter\n", "")


async def test_the_service_restarts_while_a_hook_waits_for_another_one(lab: Lab) -> None:
    manager = await lab.prepared()
    first = await start(manager, "echo ready; while [ ! -e go ]; do sleep 0.05; done; echo first")
    second = await manager.start("run", manager.script("echo second"), "after_script")
    await eventually(lambda: [live.hooks for live in lab.jobs.live] == [2])
    await lab.leave()
    terminate(second)  # the next life would end the first for it
    end = await ended(second)
    Path(lab.options.settings.workspace, "go").touch()
    lab.begin()
    assert "sandbox was given back" not in end.said
    assert (await first.end()).out == b"ready\nfirst\n"


@pytest.mark.parametrize("earlier", [False, True], ids=["aborted", "ended by an earlier life"])
async def test_a_runner_that_stops_does_not_wait_for_a_keeper_that_is_away(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, *, earlier: bool
) -> None:
    """What it could not give back, its next life does."""
    monkeypatch.setattr(jobs_module, "END_DEADLINE", 0.2)
    monkeypatch.setattr(jobs_module, "_LEAVE_DEADLINE", 0.2)
    await lab.prepared()
    lab.leases.trouble["resume"] = away
    if earlier:
        lab.jobs.live[0].record.move(State.OVER)
    await lab.leave()
    lab.begin()
    assert lab.jobs.running == (not earlier)
    lab.jobs.abort("it was told to stop at once.")
    await asyncio.wait_for(lab.working, 10.0)
    await lab.jobs.leave()
    lab.die()
    del lab.leases.trouble["resume"]
    lab.begin()
    await eventually(lambda: lab.leases.calls == ["give_back:used"])
    await eventually(lambda: not list((lab.folder / "jobs").iterdir()))


async def test_a_cancel_after_a_restart(lab: Lab) -> None:
    manager = await lab.prepared()
    stage = await start(manager, "echo $$ ready; exec sleep 300")
    await lab.leave()
    lab.begin()
    await eventually(lambda: len(lab.leases.resumed) >= 2)  # the job's lease, and the stage's own way in
    terminate(stage.process)
    assert (await stage.end()).code == 2
    await eventually(lambda: not alive(int(stage.seen.split()[0])))


async def test_a_graceful_stop_of_gitlab_runner_s_unit_leaves_its_stages_alone(lab: Lab) -> None:
    """The trap: systemd sends QUIT to each process of the unit, of which the hooks are some."""
    manager = await lab.prepared()
    stage = await start(manager, "echo ready; while [ ! -e go ]; do sleep 0.05; done; echo after")
    os.killpg(stage.process.pid, signal.SIGQUIT)
    Path(lab.options.settings.workspace, "go").touch()
    end = await stage.end()
    assert (end.code, end.said) == (0, "ready\nafter\n")
