"""The four hooks as processes, against the service's socket: what gitlab-runner sees of them."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runner.execution.log import Log
from runner.gitlab import jobs as jobs_module
from runner.gitlab import server as server_module
from runner.gitlab.containers.inside import enter
from tests.runner.conftest import alive, hang, lose
from tests.runner.gitlab.conftest import DEADLINE, HOOK, Ended, Lab, Manager, ended, terminate
from tests.waiting import eventually

pytestmark = pytest.mark.anyio


class Stage:
    """A stage that runs, its output read as it comes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.seen = b""

    async def until(self, wanted: bytes) -> bytes:
        """Wait for something in its output."""
        assert self.process.stdout
        async with asyncio.timeout(DEADLINE):
            while wanted not in self.seen:
                data = await self.process.stdout.read(65536)
                assert data, f"the hook ended with {self.seen[-500:]!r}"
                self.seen += data
        return self.seen

    async def end(self) -> Ended:
        """Wait for its end, and return all of its output."""
        rest = await ended(self.process)
        return Ended(rest.code, self.seen + rest.out, rest.err)


async def start(manager: Manager, text: str, stage: str = "build_script") -> Stage:
    """Start a stage, and wait until it printed `ready`."""
    started = Stage(await manager.start("run", manager.script(text), stage))
    await started.until(b"ready")
    return started


def changing(change: str) -> str:
    """Return a program that has a hook's module `client`, with something changed in it."""
    return f"import posix, sys; sys.path.insert(0, {str(Path(HOOK[-1]).parent)!r}); import client; {change}"


def changed(change: str, *arguments: str) -> tuple[str, ...]:
    """Return the command of a hook with something changed."""
    return (*HOOK[:-1], "-c", f"{changing(change)}; posix._exit(client.main({list(arguments)!r}))")


def test_a_hook_imports_next_to_nothing() -> None:
    """Each of these costs every stage of every job; `os` alone was 1.6 ms."""
    ours = {"__main__", "client", "_socket", "_signal", "posix", "sys", "time"}
    told = "import sys; before = set(sys.modules); import client; print(*set(sys.modules) - before)"
    folder = str(Path(HOOK[-1]).parent)
    started = [*HOOK[:-1], "-c", f"import sys; sys.path.insert(0, {folder!r}); {told}"]
    assert set(subprocess.run(started, check=True, capture_output=True, text=True).stdout.split()) <= ours


async def test_a_job(lab: Lab) -> None:
    manager = lab.manager()
    config = await manager.config()
    said = json.loads(config.out)
    assert (said["shell"], said["builds_dir_is_shared"]) == ("bash", False)
    assert config.err == ""
    prepare = await manager.hook("prepare")
    assert (prepare.code, prepare.err) == (0, "")
    assert b"sandbox-under-test" in prepare.out
    assert (await manager.hook("prepare")).code == 0
    stage = await manager.run("echo out; echo err >&2; export X=1", "prepare_script")
    assert (stage.code, stage.out, stage.err) == (0, b"out\nerr\n", "")
    failed = await manager.run("echo $0; exit 42")
    assert (failed.code, failed.err) == (1, "")
    assert manager.exit_code == "42\n"
    assert (await manager.run("kill -9 $$", "after_script")).code == 1
    assert manager.exit_code == "137\n"
    assert (await manager.run("true", "a_stage_of_the_future")).code == 0
    assert len(lab.leases.leases) == 1
    cleanup = await manager.hook("cleanup")
    assert (cleanup.code, cleanup.out, cleanup.err) == (0, b"", "")
    await eventually(lambda: lab.leases.calls == ["give_back:used"])
    await eventually(lambda: not list((lab.folder / "jobs").iterdir()))
    assert (await manager.hook("cleanup")).code == 0
    late = await manager.run("true", "cleanup_file_variables")
    assert late.code == 2
    assert "does not know this job" in late.said
    assert len(lab.leases.leases) == 1


async def test_a_program_of_ours_that_failed_in_the_sandbox_is_a_system_failure(lab: Lab) -> None:
    """It says so by a signal, since every exit code can be the script's own."""
    manager = await lab.prepared()
    assert (await manager.run(f"kill -{enter.OURS} $$")).code == 2
    assert (await manager.run(f"exit {128 + enter.OURS}")).code == 1


async def test_nobody_reaches_the_job_of_another(lab: Lab) -> None:
    one, other = await lab.prepared(1), await lab.prepared(2)
    handle = one.environment["RUNNER_GITLAB_JOB"]
    other.environment = {"RUNNER_GITLAB_JOB": handle[:-1] + ("y" if handle.endswith("x") else "x")}
    assert (await other.run("true")).code == 2
    assert (await other.hook("cleanup")).code == 0
    assert (await one.run("true")).code == 0


async def test_cleanup_without_a_handle(lab: Lab) -> None:
    """After a `config` that failed, gitlab-runner has no `job_env`, and the response alone says which job it was."""
    manager, other = await lab.prepared(1), await lab.prepared(2)
    manager.environment = {}
    assert (await manager.hook("cleanup")).code == 0
    await eventually(lambda: lab.leases.calls == ["give_back:used"])
    assert (await other.run("true")).code == 0


@pytest.mark.parametrize(
    "script",
    [
        "trap '' TERM; echo $$ ready; while :; do sleep 0.05; done",
        "echo $$ ready; exec sleep 300",
        "trap '' TERM; echo $$ ready; exec yes",
        "(trap '' TERM; setsid sleep 300 & echo $! ready; wait) & wait",
    ],
    ids=["ignores TERM", "silent", "floods", "in another session"],
)
async def test_a_cancelled_stage(lab: Lab, script: str) -> None:
    """All that it started ends, and the sandbox is there for `after_script`."""
    manager = await lab.prepared()
    stage = await start(manager, script)
    pid = int(stage.seen.split()[0])
    began = time.monotonic()
    terminate(stage.process)
    end = await stage.end()
    assert time.monotonic() - began < lab.options.settings.grace + 5  # for a machine that is busy
    assert end.code == 2
    assert "cancelled by GitLab" in end.said
    assert not alive(pid)
    assert (await manager.run("echo after", "after_script")).out == b"after\n"
    assert len(lab.leases.leases) == 1
    assert lab.leases.calls == []


async def test_a_background_child_that_keeps_the_output_open(lab: Lab) -> None:
    manager = await lab.prepared()
    assert (await manager.run("sleep 300 & echo done")).out == b"done\n"


async def test_much_output(lab: Lab) -> None:
    """None of it waits in memory, nothing is lost, and all of it comes before the hook's end."""
    manager = await lab.prepared()
    end = await manager.run("head -c 50000000 /dev/zero; echo end")
    assert end.code == 0
    assert len(end.out) == 50000000 + len("end\n")


async def test_more_output_than_is_kept(lab: Lab) -> None:
    object.__setattr__(lab.options, "log_limit", 1000)
    manager = await lab.prepared()
    end = await manager.run("head -c 5000 /dev/zero; exit 3")
    assert (end.code, end.err, manager.exit_code) == (1, "", "3\n")
    assert end.out == bytes(1000) + b"\nrunner: The log is kept up to 1000 bytes; 4000 bytes were dropped.\n"


async def test_output_that_cannot_be_read_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: the file is opened anew for it, and all of a green job's output was missing without a word."""

    async def follow(*_: object) -> AsyncIterator[bytes]:
        yield b"first\n"
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    manager = await lab.prepared()
    monkeypatch.setattr(Log, "follow", follow)
    hook = changed("posix.urandom = bytes", "run", manager.script("echo first; echo second"), "build_script")
    for _ in range(2):  # the second time, it has ended before
        end = await ended(await manager.execute(*hook))
        told = "runner: The rest of the output could not be read: Too many open files.\n"
        assert (end.code, end.said) == (0, f"first\n{told}")


async def test_a_large_script(lab: Lab) -> None:
    manager = await lab.prepared()
    end = await manager.run(f"export X='{'x' * 300_000}'; echo ${{#X}}")
    assert end.out == b"300000\n"


async def test_our_own_lines_begin_where_no_other_line_is(lab: Lab) -> None:
    """Among the stage's output, whose order gitlab-runner keeps within one stream alone."""
    manager = await lab.prepared()
    stage = await start(manager, "echo ready; printf half; sleep 300")
    await stage.until(b"half")
    terminate(stage.process)
    assert b"half\nrunner: The script was cancelled by GitLab" in (await stage.end()).out


@pytest.mark.parametrize("stage", ["", "echo $$ ready; exec sleep 300"], ids=["between stages", "within a stage"])
async def test_gitlab_runner_is_killed(lab: Lab, stage: str) -> None:
    """Nobody calls `cleanup` then: the end of its process is what the service sees."""
    manager = lab.manager()
    text = manager.script(stage or "true")
    hook = shlex.join([*HOOK, "run", text, "build_script"])
    # The shell stands for gitlab-runner: it starts each hook as the leader of a group of its own.
    program = f"set -m; {shlex.join([*HOOK, 'config'])} & wait; read HANDLE; export RUNNER_GITLAB_JOB=$HANDLE; "
    program += f"{shlex.join([*HOOK, 'prepare'])} & wait; {hook} & wait; echo between; read"
    runner = await manager.execute("bash", "-c", program, stdin=asyncio.subprocess.PIPE)
    shell = Stage(runner)
    await shell.until(b"job_env")
    await shell.until(b"}}")
    assert runner.stdin
    runner.stdin.write(json.loads(shell.seen)["job_env"]["RUNNER_GITLAB_JOB"].encode() + b"\n")
    await shell.until(b"ready" if stage else b"between")
    runner.kill()
    await eventually(lambda: lab.leases.calls == ["give_back:used"])
    assert not lab.jobs.live
    await asyncio.wait_for(runner.communicate(), DEADLINE)  # its hooks have ended as well


async def test_a_hook_that_is_killed(lab: Lab) -> None:
    """gitlab-runner does that to one that does not end in time: what it started must not stay."""
    manager = await lab.prepared()
    stage = await start(manager, "echo $$ ready; exec sleep 300")
    stage.process.kill()
    await eventually(lambda: not alive(int(stage.seen.split()[0])))
    assert (await manager.run("echo after", "after_script")).out == b"after\n"


async def test_a_hook_that_is_killed_while_there_is_no_service(lab: Lab) -> None:
    """The next stage does not start beside what is left of the one before."""
    manager = await lab.prepared()
    stage = await start(manager, "trap '' TERM; echo $$ ready; while :; do sleep 0.05; done")
    await lab.leave()
    stage.process.kill()
    await stage.process.wait()
    lab.begin()
    assert (await manager.run("echo after", "after_script")).out == b"after\n"
    assert not alive(int(stage.seen.split()[0]))


async def test_a_restart_between_cleanup_and_the_return_of_the_sandbox(lab: Lab) -> None:
    manager = await lab.prepared()
    lab.leases.trouble["give_back"] = hang
    assert (await manager.hook("cleanup")).code == 0
    await eventually(lambda: lab.leases.calls == ["give_back:used"])
    lab.die()
    lab.leases.trouble.clear()
    lab.leases.leases[0].calls.clear()
    lab.begin()
    assert not lab.jobs.live
    await eventually(lambda: lab.leases.calls == ["give_back:used"])
    await eventually(lambda: not list((lab.folder / "jobs").iterdir()))


async def test_a_sandbox_that_is_lost(lab: Lab) -> None:
    """The stage says so, those that follow say so at once, and none takes another sandbox."""
    manager = await lab.prepared()
    stage = await start(manager, "echo ready; exec sleep 300")
    lab.leases.leases[0].calls.append("condemn")  # by the keeper
    lab.sandbox.cut()
    end = await stage.end()
    assert end.code == 2
    assert "The sandbox was lost" in end.said
    for name in ("after_script", "upload_artifacts_on_failure", "cleanup_file_variables"):
        late = await manager.run("true", name)
        assert (late.code, late.out[:28], late.err) == (2, b"runner: The sandbox of this ", "")
        assert "lost before" in late.said
    assert (await manager.hook("cleanup")).code == 0
    assert len(lab.leases.leases) == 1


async def test_a_sandbox_that_is_lost_between_stages(lab: Lab) -> None:
    """The trap: SSH stays silent for seconds, so the keeper is asked, which knows."""
    manager = await lab.prepared()
    await eventually(lambda: "renew" in lab.leases.leases[0].calls)
    for server in lab.sandbox.servers:
        server.send_signal(signal.SIGSTOP)
    lab.leases.trouble["renew"] = lose
    lab.leases.leases[0].calls.append("condemn")  # by the keeper
    began = time.monotonic()
    late = await manager.run("true", "get_sources")
    assert (late.code, late.err) == (2, "")
    assert "The lease is gone." in late.said
    assert time.monotonic() - began < lab.options.settings.keepalive_interval


async def test_cleanup_beside_a_live_stage(lab: Lab) -> None:
    manager = await lab.prepared()
    stage = await start(manager, "echo $$ ready; exec sleep 300")
    assert (await manager.hook("cleanup")).code == 0
    assert (await stage.end()).code == 2
    await eventually(lambda: lab.leases.calls == ["give_back:used"])
    assert not alive(int(stage.seen.split()[0]))


async def test_two_stages_at_once(lab: Lab) -> None:
    """A stage that gitlab-runner gave up may still be there when the next one comes."""
    manager = await lab.prepared()
    stage = await start(manager, "echo ready; while [ ! -e go ]; do sleep 0.05; done; echo first")
    second = await manager.start("run", manager.script("echo second"), "after_script")
    await eventually(lambda: max(live.hooks for live in lab.jobs.live) == 2)
    Path(lab.options.settings.workspace, "go").touch()
    assert (await stage.end()).out == b"ready\nfirst\n"
    assert (await ended(second)).out == b"second\n"


async def test_a_job_that_nobody_comes_for(lab: Lab) -> None:
    await lab.prepared()
    assert len(lab.server._managers._watched) == 1
    lab.sweep_after(0.0)
    await eventually(lambda: lab.leases.calls == ["give_back:used"])
    assert not lab.server._managers._watched


async def test_a_service_that_stops(lab: Lab) -> None:
    manager = await lab.prepared()
    stage = await start(manager, "echo $$ ready; exec sleep 300")
    lab.jobs.abort("it was told to stop.")
    assert (await stage.end()).code == 2
    await asyncio.wait_for(lab.working, DEADLINE)
    assert lab.leases.calls == ["give_back:used"]


async def test_a_job_waits_for_a_drained_service_and_one_that_has_its_sandbox_goes_on(lab: Lab) -> None:
    running = await lab.prepared()
    waiting = lab.manager(8)
    assert (await waiting.config()).code == 0
    lab.hold("The runner is draining.")
    prepare = await waiting.start("prepare")
    await eventually(lambda: lab.jobs.live[1].hooks == 1)
    stage = await start(running, "echo still ready")
    assert (await stage.end()).code == 0
    assert (lab.jobs.running, len(lab.leases.leases)) == (1, 1)
    lab.hold("")
    end = await ended(prepare)
    assert (end.code, end.err) == (0, "")
    assert end.out.startswith(b"runner: The runner is draining. The job waits.\n")
    assert lab.jobs.running == 2


async def test_a_drain_that_takes_too_long_is_a_system_failure(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "HELD", 0.05)
    lab.hold("The runner is draining.")
    manager = lab.manager()
    assert (await manager.config()).code == 0
    end = await manager.hook("prepare")
    assert (end.code, "The runner is draining. The job has waited for 0.05 s." in end.said) == (2, True)
    assert lab.leases.leases == []


@pytest.mark.parametrize("abort", [False, True])
async def test_a_job_that_comes_while_the_service_stops_is_the_next_life_s(lab: Lab, *, abort: bool) -> None:
    """gitlab-runner has taken it from GitLab already. It does not hold the stop up either."""
    running = await lab.prepared()
    lab.jobs.stop()
    waiting = lab.manager(8)
    assert (await waiting.config()).code == 0
    prepare = await waiting.start("prepare")
    await eventually(lambda: lab.jobs.live[1].hooks == 1)
    assert lab.jobs.running == 1
    if abort:
        lab.jobs.abort("it was told to stop at once.")
    assert (await running.hook("cleanup")).code == 0
    await asyncio.wait_for(lab.working, DEADLINE)
    late = lab.manager(9)
    assert (await late.config()).code == 0  # the service has jobs of its own still
    await lab.leave()
    assert len(lab.leases.leases) == 1
    lab.begin()
    end = await ended(prepare)
    assert (end.code, "The runner is stopping" in end.said) == (0, True)
    assert (await waiting.run("echo built")).out == b"built\n"


async def test_an_exit_code_that_cannot_be_written_is_a_system_failure(lab: Lab) -> None:
    """The trap: gitlab-runner would tell GitLab the code of an earlier stage, or 1."""
    manager = await lab.prepared()
    (manager.folder / "build_exit_code").mkdir()
    end = await manager.run("exit 42")
    assert end.code == 2
    assert "exit code 42 cannot be written" in end.said


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("client.posix.pidfd_open = None", "TypeError"),
        ("client.finish = lambda _: int('x')", "ValueError"),
        ("client.finish = lambda _: sys.exit(1)", "SystemExit"),
    ],
)
async def test_an_error_of_the_hook_s_own_is_a_system_failure(lab: Lab, damage: str, said: str) -> None:
    """The trap: Python's exit code for them is 1, which is the job's own failure and is not tried again."""
    manager = await lab.prepared()
    end = await ended(await manager.execute(*changed(damage, "run", manager.script("true"), "build_script")))
    assert (end.code, said in end.said) == (2, True)


async def test_a_hook_whose_program_is_broken_is_a_system_failure(lab: Lab) -> None:
    manager = lab.manager()
    (manager.folder / "hook.py").write_text(Path(HOOK[-1]).read_text())
    (manager.folder / "client.py").write_text("this is no Python")
    end = await ended(await manager.execute(*HOOK[:-1], str(manager.folder / "hook.py"), "config"))
    assert (end.code, "SyntaxError" in end.said) == (2, True)


async def test_a_python_without_pidfd_does_all_but_see_gitlab_runner_s_end(lab: Lab) -> None:
    manager = await lab.prepared()
    hook = changed("del posix.pidfd_open", "run", manager.script("echo it runs"), "x")
    end = await ended(await manager.execute(*hook))
    assert (end.code, end.out) == (0, b"it runs\n")


async def test_hooks_are_taken_again_after_there_were_too_many_open_files(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await lab.leave()
    errors = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.EMFILE, "Too many open files")]
    accept = type(asyncio.get_running_loop()).sock_accept

    async def fail(loop: asyncio.BaseEventLoop, listener: socket.socket) -> object:
        if errors:
            raise errors.pop()
        return await accept(loop, listener)

    monkeypatch.setattr(type(asyncio.get_running_loop()), "sock_accept", fail)
    monkeypatch.setattr(server_module, "ACCEPT_PAUSE", 0.01)
    lab.begin()
    assert (await lab.manager().config()).code == 0
    assert caplog.text.count("Too many open files") == 1


async def test_a_response_that_cannot_be_read(lab: Lab) -> None:
    manager = lab.manager()
    (manager.folder / "response.json").write_text("{}")
    end = await manager.config()
    assert (end.code, end.out) == (2, b"")
    assert "The job response cannot be read" in end.said
