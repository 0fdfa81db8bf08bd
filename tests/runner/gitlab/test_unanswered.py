"""Hooks whose service cannot read what they ask, is away for good, or may not be asked: the log soon says which."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from tests.gitlab.manager import Config
from tests.gitlab.manager import Manager as Simulator
from tests.runner.gitlab.conftest import DEADLINE, HOOK, Lab, ended, terminate
from tests.runner.gitlab.test_hooks import Stage, changed, changing
from tests.waiting import eventually

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("lambda kind, payload: frame(kind, payload + b'\\0more')", "a request that cannot be read. Is it of another"),
        ("lambda kind, payload: frame(b'Z', payload)", "a frame (b'Z') that there is not. Is it of another version"),
        ("lambda kind, payload: frame(b'B', payload)", "out of turn. Is it of another version than the runner?"),
        (
            "lambda kind, payload: frame(kind, payload + bytes(65536))",
            "bytes in one piece, and at most 65536 are taken.",
        ),
    ],
    ids=["other words", "another frame", "another order", "too much"],
)
async def test_a_request_that_cannot_be_read_is_answered(lab: Lab, change: str, said: str) -> None:
    """The trap: a hook that hears nothing asks for five minutes, and then says that the runner does not run.

    The script is larger than what the service reads before it knows, and a hook listens after it has sent all.
    """
    manager = await lab.prepared()
    script = manager.script("#" * 3_000_000)
    hook = changed(f"frame = client.frame; client.frame = {change}", "run", script, "build_script")
    end = await ended(await manager.execute(*hook))
    assert (end.code, said in end.said, end.said.count("runner:")) == (2, True, 1), end.said


PATIENCE = 8.0
"""Seconds, in place of the hooks' own five minutes."""
SOON = f"client.PATIENCE['run'] = client.PATIENCE['cleanup'] = {PATIENCE}; client.BRIEF = 0.1"
TELLING = "client.QUIET = 0.3; client.BRIEF = 0.1"
"""A hook that has said that it waits has waited for longer than one would that is not patient."""
JOB = {
    "variables": [{"key": "GIT_STRATEGY", "value": "none"}],
    "steps": [{"name": "script", "script": ["true"]}, {"name": "after_script", "script": ["true"]}],
    "artifacts": [{"paths": ["made"], "when": "always"}],
}
LATE = ("build_script", "after_script", "upload_artifacts_on_failure", "cleanup_file_variables", "cleanup")


async def test_a_job_whose_service_is_gone_waits_for_it_once(lab: Lab, tmp_path: Path) -> None:
    """gitlab-runner goes on with the stages after a failed one, and each would wait for five minutes."""
    temp = tmp_path / "temp"
    temp.mkdir()
    hooks = (*HOOK[:-1], "-c", f"{changing(SOON)}; posix._exit(client.main(sys.argv[1:]))")
    environment = {"PATH": os.environ["PATH"], "RUNNER_GITLAB_SOCKET": str(lab.socket)}
    job = Simulator(Config(hooks, environment, temp=temp), JOB)
    leaving: list[tuple[float, asyncio.Task[None]]] = []

    def starting(stage: str) -> None:
        if stage == "build_script":
            leaving.append((time.monotonic(), asyncio.create_task(lab.leave())))

    job.on_stage = starting
    result = await asyncio.wait_for(job.run(), DEADLINE)
    [(began, left)] = leaving
    took = time.monotonic() - began
    await left
    lab.begin()
    assert result.reason == "runner_system_failure", result.log
    late = [stage for stage in result.stages if stage.code]
    assert [(stage.name, stage.code) for stage in late] == [(name, 2) for name in LATE]
    said = (
        f"runner: The runner does not answer at {lab.socket} (Connection refused). Is `runner serve` running there?\n"
    )
    assert (result.log.count(said), result.log.count("runner: The runner")) == (len(LATE) - 1, len(LATE) - 1)
    assert said in result.admin_log
    assert PATIENCE <= took < 2 * PATIENCE
    assert list(temp.iterdir()) == []


async def test_a_service_that_came_back_late_is_waited_for_anew(lab: Lab) -> None:
    """The trap: what was left by the hook that gave up would have the next restart end the job."""
    manager = await lab.prepared()
    await lab.leave()
    files = set(manager.folder.iterdir())
    hook = changed("client.PATIENCE['run'] = client.BRIEF = 0.1", "run", manager.script("true"), "get_sources")
    assert (await ended(await manager.execute(*hook))).code == 2
    lab.begin()
    script = manager.script("echo ready; while [ ! -e go ]; do sleep 0.05; done; echo after")
    stage = Stage(await manager.execute(*changed(TELLING, "run", script, "get_sources")))
    await stage.until(b"ready\n")
    await lab.leave()
    await stage.until(b"runner: The runner is away (Connection refused). Waiting for it, ")
    Path(lab.options.settings.workspace, "go").touch()
    lab.begin()
    end = await stage.end()
    assert (end.code, end.out.endswith(b"\nafter\n")) == (0, True)
    assert {file for file in manager.folder.iterdir() if not file.name.startswith("script")} <= files


async def test_a_restart_at_a_cancel_leaves_after_script_its_patience(lab: Lab) -> None:
    """The trap: a hook that is to end gives up at once, and not because it has waited long enough."""
    manager = await lab.prepared()
    await lab.leave()
    stage = await manager.start("run", manager.script("true"), "build_script")
    await eventually(lambda: catches(stage.pid, signal.SIGTERM))
    terminate(stage)
    assert (await ended(stage)).code == 2
    after = Stage(await manager.execute(*changed(TELLING, "run", manager.script("echo after"), "after_script")))
    await after.until(b"The runner is away")
    lab.begin()
    end = await after.end()
    assert (end.code, end.out.endswith(b"\nafter\n")) == (0, True)


async def test_a_socket_that_is_for_others_is_told_at_once(lab: Lab) -> None:
    """By what to do about it, and not by whether the service runs: waiting does not help."""
    manager = await lab.prepared()
    lab.socket.chmod(0)
    not_above = ["setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search"]
    command = (*(not_above if os.geteuid() == 0 else []), *HOOK)
    for about in (("run", manager.script("true"), "build_script"), ("cleanup",)):
        end = await ended(await manager.execute(*command, *about))
        assert (end.code, "(Permission denied). Add that user to the socket's group" in end.said) == (2, True), end.said


async def test_a_cancel_while_there_is_no_service(lab: Lab) -> None:
    """Its hook waits for the service to come back, but not when gitlab-runner wants the end."""
    manager = lab.manager()
    manager.environment = {"RUNNER_GITLAB_JOB": "7.x"}
    manager.socket = lab.folder / "nothing.sock"
    hook = await manager.start("run", manager.script("true"), "build_script")
    await eventually(lambda: catches(hook.pid, signal.SIGTERM))
    terminate(hook)
    end = await ended(hook)
    assert end.code == 2
    assert "Is `runner serve` running there?" in end.said


def catches(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)
