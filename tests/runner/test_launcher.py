"""The launcher by itself, over pipes, as each Python that a sandbox may have runs it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from runner.execution import program, wire
from runner.execution.folder import Folder
from runner.steps import Step, StepProgress, StepState, parse
from tests.runner.conftest import alive, children_of, end_leftovers
from tests.waiting import until


def _pythons() -> list[str]:
    """Return the interpreters of this machine that the launcher promises to run on."""
    names = [sys.executable, "/usr/bin/python3", *(f"python3.{minor}" for minor in range(11, 15))]
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    found: dict[str, str] = {}
    for name in names:
        path = shutil.which(name)
        if path and subprocess.run([path, "-I", "-S", "-c", check], capture_output=True, check=False).returncode == 0:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


@dataclass
class Launcher:
    """A running launcher, spoken to over pipes."""

    process: subprocess.Popen[bytes]
    launch: wire.Launch

    def __post_init__(self) -> None:
        self._decoder = wire.Decoder()
        self._frames: list[wire.Frame] = []

    def next(self) -> wire.Frame:
        """Return the next frame; fail when the launcher ends without one."""
        assert self.process.stdout
        while not self._frames:
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, "the launcher ended"
            self._frames += self._decoder.feed(data)
        return self._frames.pop(0)

    def start(self, script: bytes, **changes: object) -> None:
        """Have the first script started."""
        assert isinstance(self.next(), wire.Hello)
        self.start_next(script, **changes)

    def start_next(self, script: bytes, **changes: object) -> None:
        """Have another script started."""
        self.launch = replace(self.launch, **changes)  # type: ignore[arg-type]
        self.send(wire.encode_launch(self.launch, len(script)) + script)

    def start_steps(self, *some: Step, **changes: object) -> None:
        """Have the steps of a job started."""
        self.start(some[0].script, steps=tuple(map(wire.encode_step, some)), **changes)
        for step in some[1:]:
            self.send(wire.encode_script(len(step.script)) + step.script)

    def end_of_steps(self) -> tuple[bytes, list[StepProgress], wire.Ended]:
        """Return the log, what was told last of the steps, and the end."""
        log, progress = b"", wire.Progress(())
        while not isinstance(got := self.next(), wire.Ended):
            if isinstance(got, wire.Progress):
                progress = got
            else:
                assert isinstance(got, wire.LogData), got
                log += bytes(got.data)
        return log, list(progress.steps), got

    def follow(self, offset: int = 0, limit: int = 1 << 30) -> None:
        """Ask for the script that another launcher started."""
        assert isinstance(self.next(), wire.Hello)
        self.send(wire.encode_follow(wire.Follow(self.launch.attempt, self.launch.root, offset, limit)))

    def send(self, data: bytes) -> None:
        """Send bytes."""
        assert self.process.stdin
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def leave(self) -> int:
        """End the connection, and return the launcher's exit code."""
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(20)

    def output_until(self, wanted: bytes) -> bytes:
        """Return the output up to where it holds `wanted`."""
        seen = b""
        while wanted not in seen:
            got = self.next()
            assert isinstance(got, wire.LogData), got
            seen += bytes(got.data)
        return seen

    def end(self) -> tuple[bytes, wire.Frame]:
        """Return all further output and the last frame."""
        seen = b""
        while isinstance(got := self.next(), wire.LogData):
            seen += bytes(got.data)
        return seen, got

    @property
    def record(self) -> dict[str, object]:
        """The record on disk; one that has only its room so far says nothing."""
        found: dict[str, object] = json.loads(self.file("record").read_bytes().strip(b"\0") or b"{}")
        return found

    def file(self, name: str) -> Path:
        """Return the path of a file of the attempt."""
        return Path(self.launch.root, self.launch.attempt, name)

    def until_record(self, kind: str) -> dict[str, object]:
        """Wait until the record is of a kind: nobody tells, as the follower is gone."""
        until(f"the record is {kind}", lambda: self.record.get("kind") == kind)
        return self.record


@contextlib.contextmanager
def waiting(command: list[str], place: Path) -> Iterator[Launcher]:
    """Start a launcher that waits for a job."""
    launch = wire.Launch("a1", (), {}, None, 0.3, 1 << 30, str(place / "workspace"), str(place / "attempts"))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        running = Launcher(process, launch)
        running.send(program.LAUNCHER.source)
        yield running
        process.kill()


@pytest.fixture(params=_pythons(), ids=lambda path: Path(path).resolve().name)
def python(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Return an interpreter; what it leaves running is ended."""
    yield request.param
    end_leftovers(tmp_path / "attempts" / "a1" / "record")


@pytest.fixture
def launcher(python: str, tmp_path: Path) -> Iterator[Launcher]:
    """Start a launcher that waits for a job."""
    with waiting([python, *program.LAUNCHER.arguments], tmp_path) as running:
        yield running


@pytest.fixture
def later(python: str, tmp_path: Path) -> Iterator[Launcher]:
    """Start another one in the same sandbox."""
    with waiting([python, *program.LAUNCHER.arguments], tmp_path) as running:
        yield running


def test_a_script(launcher: Launcher) -> None:
    launcher.start(b"echo out; exit 3")
    output, end = launcher.end()
    assert output == b"out\n"
    assert end == wire.Ended(wire.EndKind.EXITED, 3, 0, "", 4, 0, "")
    assert launcher.leave() == 0
    assert launcher.record["kind"] == "exited"
    assert launcher.file("record").stat().st_size == 4096
    modes = {name: launcher.file(name).stat().st_mode & 0o777 for name in ("", "script", "log", "record")}
    assert modes == {"": 0o700, "script": 0o700, "log": 0o600, "record": 0o600}


def test_one_script_after_another(launcher: Launcher) -> None:
    """A signal that comes too late is for nobody; and no end, descriptor or zombie of one script stays for the next."""
    assert isinstance(launcher.next(), wire.Hello)
    descriptors = Path(f"/proc/{launcher.process.pid}/fd")
    open_files = len(list(descriptors.iterdir()))
    launcher.start_next(b"echo first; exit 3")
    assert launcher.end()[0] == b"first\n"
    launcher.send(wire.encode_signal(signal.SIGKILL))
    for number in range(2):
        launcher.start_next(b"echo $0; exit 4", attempt=f"b{number}")
        output, end = launcher.end()
        assert f"/b{number}/script".encode() in output
        assert isinstance(end, wire.Ended)
        assert end.code == 4
    numbers = itertools.count()

    def collected() -> bool:
        launcher.start_next(b"true", attempt=f"c{next(numbers)}")
        launcher.end()
        return len(children_of(launcher.process.pid)) <= 2  # the one that waits; the last one may just be ending

    until("supervisors are collected", collected)
    until("its files are closed", lambda: len(list(descriptors.iterdir())) == open_files)
    assert launcher.leave() == 0


def test_a_script_outlives_the_connection(launcher: Launcher) -> None:
    launcher.start(b"echo ready; while [ ! -e go ]; do sleep 0.02; done; echo after; exit 5")
    launcher.output_until(b"ready")
    os.killpg(launcher.process.pid, signal.SIGKILL)
    launcher.process.wait(20)
    Path(launcher.launch.workspace, "go").touch()
    record = launcher.until_record("exited")
    assert record["code"] == 5
    assert launcher.file("log").read_bytes() == b"ready\nafter\n"
    assert record["logged"] == 12


def test_the_deadline_holds_without_a_follower(launcher: Launcher) -> None:
    launcher.start(b"trap '' TERM; echo $$ ready; while :; do sleep 0.02; done", timeout=0.5)
    script = int(launcher.output_until(b"ready").split()[0])
    launcher.process.kill()
    assert launcher.until_record("timed_out")["kind"] == "timed_out"
    assert not alive(script)


def test_the_record_of_a_running_script(launcher: Launcher) -> None:
    launcher.start(b"echo $$ ready; sleep 300")
    pid = int(launcher.output_until(b"ready").split()[0])
    script, supervisor = launcher.record["script"], launcher.record["supervisor"]
    assert isinstance(script, list)
    assert isinstance(supervisor, list)
    assert script[0] == pid
    assert os.getsid(pid) == pid
    assert os.getsid(supervisor[0]) == supervisor[0]
    launcher.send(wire.encode_signal(signal.SIGTERM))
    assert launcher.end()[1] == wire.Ended(wire.EndKind.SIGNALED, 15, 0, "", len(f"{pid} ready\n"), 0, "")


def test_a_connection_that_ends_before_a_job(launcher: Launcher) -> None:
    assert isinstance(launcher.next(), wire.Hello)
    assert launcher.leave() == 0
    assert not launcher.file("").exists()


def test_the_supervisor_that_waits_goes_with_the_connection(launcher: Launcher) -> None:
    assert isinstance(launcher.next(), wire.Hello)
    [supervisor] = children_of(launcher.process.pid)
    assert launcher.leave() == 0
    until("the supervisor has ended", lambda: not alive(supervisor))


def test_a_supervisor_that_was_ended_while_it_waited_starts_nothing(launcher: Launcher) -> None:
    assert isinstance(launcher.next(), wire.Hello)
    [supervisor] = children_of(launcher.process.pid)
    os.kill(supervisor, signal.SIGKILL)
    until("the supervisor has ended", lambda: not alive(supervisor))
    launcher.start_next(b"touch started")
    assert launcher.end()[1] == wire.Refused(
        "The process that was to see the script to its end was ended while it waited."
    )
    assert launcher.leave() == 0
    assert not Path(launcher.launch.workspace, "started").exists()


def test_a_script_has_no_files_of_ours_and_no_signal_ignored(launcher: Launcher) -> None:
    """The trap: `socket.recv_fds` drops its flags, so that what it takes is left to each child."""
    launcher.start(b"ls -x /proc/self/fd; grep Sig /proc/self/status")
    output, end = launcher.end()
    assert isinstance(end, wire.Ended)
    assert output.split(b"\n")[0].split() == [b"0", b"1", b"2", b"3"]  # the last is the listing's own
    signals = {name: int(mask, 16) for name, mask in re.findall(rb"(Sig[BI]\w+):\t([0-9a-f]+)", output)}
    of_the_c_library = 1 << 31 | 1 << 32
    assert {name: mask & ~of_the_c_library for name, mask in signals.items()} == {b"SigBlk": 0, b"SigIgn": 0}


def test_a_connection_that_ends_within_the_script(launcher: Launcher) -> None:
    assert isinstance(launcher.next(), wire.Hello)
    launcher.send(wire.encode_launch(launcher.launch, 100) + b"echo half; ")
    assert launcher.leave() == 0
    assert launcher.record["kind"] == "starting"
    assert not launcher.file("log").read_bytes()


def test_places_that_cannot_be_made(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    launcher.start(b"true", root=str(tmp_path / "file" / "attempts"))
    refused = launcher.next()
    assert isinstance(refused, wire.Refused)
    assert "ENOTDIR" in refused.why


def test_a_workspace_with_leftovers(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "workspace" / "deep").mkdir(parents=True)
    (tmp_path / "workspace" / "deep" / "file").touch()
    (tmp_path / "workspace" / "deep").chmod(0o500)
    launcher.start(b"ls -A")
    assert launcher.end()[0] == b""


def test_a_workspace_that_is_a_link_is_replaced(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / "workspace").symlink_to(tmp_path / "precious")
    launcher.start(b"ls -A; pwd -P")
    assert launcher.end()[0] == f"{tmp_path}/workspace\n".encode()
    assert (tmp_path / "precious" / "file").exists()


def test_a_log_that_cannot_be_written_ends_early(launcher: Launcher) -> None:
    """A file size limit stands in for a full disk."""
    subprocess.run(["prlimit", f"--pid={launcher.process.pid}", "--fsize=100000"], check=True)
    launcher.start(b"head -c 300000 /dev/zero; echo end; exit 4")
    output, end = launcher.end()
    assert isinstance(end, wire.Ended)
    assert (end.kind, end.code) == (wire.EndKind.EXITED, 4)
    assert output == bytes(100_000)
    assert (end.logged, end.dropped) == (100_000, 200_004)
    assert end.log_error == "File too large"


def test_signals_that_come_too_late_change_nothing(launcher: Launcher) -> None:
    launcher.start(b"trap '' TERM; echo ready; sleep 0.1")
    launcher.output_until(b"ready")
    launcher.send(wire.encode_signal(signal.SIGTERM) * 2000)
    assert launcher.end()[1] == wire.Ended(wire.EndKind.EXITED, 0, 0, "", 6, 0, "")


TIDIES = "trap 'sleep 0.2; echo tidied >tidied; exit' TERM; echo ready; while :; do sleep 0.02; done"


@pytest.mark.parametrize("start", ["setsid", "timeout 300", ""], ids=["a session", "a group", "the script's group"])
@pytest.mark.parametrize("by", ["signal", "timeout"])
def test_what_the_script_leaves_has_the_grace_to_end_when_its_end_is_wanted(
    launcher: Launcher, start: str, by: str
) -> None:
    """It gets TERM too, and the end is told as soon as all is over."""
    script = f"#!/bin/bash\n{start} bash -c {shlex.quote(TIDIES)} & wait\n"
    began = time.monotonic()
    launcher.start(script.encode(), grace=15.0, timeout=1.0 if by == "timeout" else None)
    launcher.output_until(b"ready")
    if by == "signal":
        launcher.send(wire.encode_signal(signal.SIGTERM))
    _, end = launcher.end()
    assert isinstance(end, wire.Ended)
    assert (end.left, time.monotonic() - began < 15) == (0, True)
    assert Path(launcher.launch.workspace, "tidied").read_text() == "tidied\n"


def test_nothing_that_tidies_up_is_told_twice(launcher: Launcher) -> None:
    """The trap: for many programs a second TERM means "at once"."""
    tidies = (
        "import os, signal, time; signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'told\\n'))\n"
        "os.write(1, b'ready\\n')\n"
        "while not os.path.exists('go'): time.sleep(0.02)"
    )
    launcher.start(f"#!/bin/bash\n{sys.executable} -c {shlex.quote(tidies)} & wait\n".encode(), grace=15.0)
    launcher.output_until(b"ready")
    launcher.send(wire.encode_signal(signal.SIGTERM))
    log = launcher.output_until(b"told\n")
    until("the script has ended", lambda: launcher.record["script"] == [])
    Path(launcher.launch.workspace, "go").touch()
    log += launcher.end()[0]
    assert log.count(b"told") == 1


def test_what_the_script_leaves_is_killed_when_the_grace_is_over(launcher: Launcher) -> None:
    """Or when somebody says so."""
    launcher.start(b"#!/bin/bash\n(trap '' TERM; echo ready; exec sleep 300) & wait\n", grace=300.0)
    launcher.output_until(b"ready")
    launcher.send(wire.encode_signal(signal.SIGTERM))
    until("the script has ended", lambda: launcher.record["script"] == [])
    launcher.send(wire.encode_signal(signal.SIGKILL))
    _, end = launcher.end()
    assert isinstance(end, wire.Ended)
    assert (end.kind, end.left) == ("signaled", 0)


def test_many_orphans_leave_no_zombies(launcher: Launcher) -> None:
    launcher.start(
        b"for i in $(seq 200); do (setsid true &); done; sleep 0.3; ps -o stat= --ppid $PPID | grep -c Z || :"
    )
    assert launcher.end()[0].split()[-1] == b"0"


WAITS = b"echo $$ ready; while [ ! -e go ]; do sleep 0.02; done; echo after; exit 5"


def go(launcher: Launcher) -> None:
    """Let the script `WAITS` come to its end."""
    Path(launcher.launch.workspace, "go").touch()


def test_a_second_follower_beside_the_first(launcher: Launcher, later: Launcher) -> None:
    """The first one's connection may be dead without anybody knowing."""
    launcher.start(WAITS)
    begin = launcher.output_until(b"ready\n")
    later.follow()
    assert later.output_until(b"ready\n") == begin
    go(launcher)
    for one in (launcher, later):
        output, end = one.end()
        assert output == b"after\n"
        assert end == wire.Ended(wire.EndKind.EXITED, 5, 0, "", len(begin) + 6, 0, "")


def test_a_follower_whose_reader_is_stuck_holds_nobody_up(launcher: Launcher, later: Launcher) -> None:
    launcher.start(b"echo ready; head -c 5000000 /dev/zero; echo end")
    launcher.output_until(b"ready\n")  # and nothing of the rest is ever read
    later.follow(offset=6)
    output, end = later.end()
    assert (len(output), output[-5:]) == (5_000_004, b"\0end\n")
    assert isinstance(end, wire.Ended)


def test_following_from_an_offset_up_to_a_limit(launcher: Launcher, later: Launcher) -> None:
    launcher.start(b"printf 0123456789")
    launcher.end()
    later.follow(offset=3, limit=8)
    assert later.end()[0] == b"34567"


def test_signals_by_way_of_a_later_follower(launcher: Launcher, later: Launcher) -> None:
    launcher.start(b"echo ready; sleep 300")
    launcher.output_until(b"ready\n")
    launcher.process.kill()
    later.follow(offset=6)
    later.send(wire.encode_signal(signal.SIGTERM))
    assert later.end()[1] == wire.Ended(wire.EndKind.SIGNALED, 15, 0, "", 6, 0, "")


def test_a_follower_that_comes_while_the_script_is_still_on_its_way(launcher: Launcher, later: Launcher) -> None:
    """It waits, and hears what comes of it."""
    assert isinstance(launcher.next(), wire.Hello)
    launcher.send(wire.encode_launch(launcher.launch, len(WAITS)) + WAITS[:20])
    until("the script comes", launcher.file("script").exists)
    later.follow()
    launcher.send(WAITS[20:])
    later.output_until(b"ready\n")
    go(launcher)
    assert later.end()[0] == b"after\n"


def test_a_launch_that_broke_off_is_not_known(launcher: Launcher, later: Launcher) -> None:
    assert isinstance(launcher.next(), wire.Hello)
    launcher.send(wire.encode_launch(launcher.launch, len(WAITS)) + WAITS[:20])
    until("the script comes", launcher.file("script").exists)
    later.follow()
    launcher.process.kill()
    assert later.end() == (b"", wire.Lost("The supervisor in the sandbox is gone, and its record is starting."))


def test_a_supervisor_that_is_killed_is_noticed_by_all(launcher: Launcher, later: Launcher) -> None:
    launcher.start(WAITS)
    launcher.output_until(b"ready\n")
    later.follow()
    later.output_until(b"ready\n")
    os.kill(launcher.record["supervisor"][0], signal.SIGKILL)  # type: ignore[index]
    for one in (launcher, later):
        assert one.end()[1] == wire.Lost("The supervisor in the sandbox is gone, and its record is running.")


def test_many_followers_cost_a_bounded_number_of_files(launcher: Launcher, later: Launcher) -> None:
    """A job may connect as often as it likes: the newest count, and an honest one is never refused."""
    launcher.start(WAITS)
    launcher.output_until(b"ready\n")
    supervisor = launcher.record["supervisor"][0]  # type: ignore[index]
    ends = []
    for _ in range(100):
        ends.append(socket.socket(socket.AF_UNIX))
        ends[-1].connect(Folder(launcher.launch.root, launcher.launch.attempt).address)
        assert ends[-1].recv(1) == b"."
    assert len(list(Path(f"/proc/{supervisor}/fd").iterdir())) < 50
    later.follow()
    later.output_until(b"ready\n")
    go(launcher)
    assert later.end()[0] == b"after\n"
    for end in ends:
        end.close()


def test_no_clock_that_can_be_set_is_looked_at(python: str, tmp_path: Path) -> None:
    """The trap: a job that is root sets the clock, and the deadline never comes, or at once."""
    spoil = (
        "import time\nfor name in ('time', 'time_ns', 'clock_gettime', 'localtime', 'gmtime'): delattr(time, name)\n"
    )
    *options, bootstrap = program.LAUNCHER.arguments[: program.LAUNCHER.arguments.index("-c") + 2]
    command = [python, *options, spoil + bootstrap, *program.LAUNCHER.arguments[len(options) + 1 :]]
    with waiting(command, tmp_path) as launcher:
        launcher.start(b"trap '' TERM; echo ready; while :; do sleep 0.02; done", timeout=0.3)
        begin = time.monotonic()
        _, end = launcher.end()
        assert isinstance(end, wire.Ended)
        assert end.kind is wire.EndKind.TIMED_OUT
        assert time.monotonic() - begin >= 0.3  # the grace


def shown(progress: list[StepProgress]) -> list[tuple[StepState, int, bool]]:
    """What was told, without the times."""
    return [(step.state, step.code, step.allowed) for step in progress]


def test_steps_run_one_after_the_other_until_one_fails(launcher: Launcher) -> None:
    launcher.start_steps(
        Step("build", b"echo made >file; printf no-newline"),
        Step("lint", b"exit 3", allow_failure=frozenset({3})),
        Step("test", b"cat file; echo $A $B; exit 5", environment={"B": "step"}),
        Step("deploy", b"echo never"),
        Step("report", b"echo report", parse("steps.test.outcome == 'failed' && failure()")),
        Step("clean", b"#!/bin/sh\nkill -9 $$", always=True),
        environment={"A": "job", "B": "job"},
    )
    log, progress, end = launcher.end_of_steps()
    assert [re.sub(rb"[0-9.]+ s", b"N s", line) for line in log.splitlines()] == [
        b"runner: step 1 of 6, build: begins",
        b"no-newline",
        b"runner: step 1 of 6, build: succeeded after N s",
        b"runner: step 2 of 6, lint: begins",
        b"runner: step 2 of 6, lint: failed with exit code 3 after N s, which is allowed",
        b"runner: step 3 of 6, test: begins",
        b"made",
        b"job step",
        b"runner: step 3 of 6, test: failed with exit code 5 after N s",
        b"runner: step 4 of 6, deploy: skipped",
        b"runner: step 5 of 6, report: begins",
        b"report",
        b"runner: step 5 of 6, report: succeeded after N s",
        b"runner: step 6 of 6, clean: begins",
        b"runner: step 6 of 6, clean: failed with exit code 137 after N s",
    ]
    assert shown(progress) == [
        (StepState.SUCCEEDED, 0, False),
        (StepState.FAILED, 3, True),
        (StepState.FAILED, 5, False),
        (StepState.SKIPPED, 0, False),
        (StepState.SUCCEEDED, 0, False),
        (StepState.FAILED, 137, False),
    ]
    assert end == wire.Ended(wire.EndKind.EXITED, 5, 0, "", len(log), 0, "", step=2)


def test_a_job_whose_failures_are_all_allowed_succeeds(launcher: Launcher) -> None:
    launcher.start_steps(Step("a", b"exit 1", allow_failure=True), Step("b", b"true"))
    _, progress, end = launcher.end_of_steps()
    assert (end.kind, end.code) == (wire.EndKind.EXITED, 0)
    assert [step.state for step in progress] == [StepState.FAILED, StepState.SUCCEEDED]


def test_a_step_that_cannot_be_started_fails_as_in_a_shell(launcher: Launcher) -> None:
    launcher.start_steps(Step("a", b"true"), Step("b", b"#!/no/such/interpreter\n"), Step("c", b"echo on", always=True))
    _, progress, end = launcher.end_of_steps()
    assert [(step.state, step.code) for step in progress][1] == (StepState.FAILED, 127)
    assert progress[2].state is StepState.SUCCEEDED
    assert (end.kind, end.errno, end.step) == (wire.EndKind.START_FAILED, 2, 1)


def test_a_step_that_takes_too_long_is_ended_and_no_other(launcher: Launcher) -> None:
    launcher.start_steps(
        Step("a", b"trap 'echo asked; exit 0' TERM; sleep 60 & wait", timeout=0.2),
        Step("b", b"sleep 60", timeout=0.2, allow_failure=True, always=True),
        Step("c", b"echo on", always=True),
    )
    log, progress, end = launcher.end_of_steps()
    assert b"asked\n" in log
    assert b"on\n" in log
    assert b"a: timed out after" in log
    assert shown(progress)[:2] == [(StepState.TIMED_OUT, 0, False), (StepState.TIMED_OUT, 143, True)]
    assert progress[2].state is StepState.SUCCEEDED
    assert (end.kind, end.step) == (wire.EndKind.STEP_TIMED_OUT, 0)


def test_after_the_jobs_timeout_no_step_runs(launcher: Launcher) -> None:
    launcher.start_steps(
        Step("a", b"echo a"), Step("b", b"sleep 60", timeout=50), Step("c", b"echo never", always=True), timeout=0.5
    )
    log, progress, end = launcher.end_of_steps()
    assert b"never" not in log
    assert [step.state for step in progress] == [StepState.SUCCEEDED, StepState.INTERRUPTED, StepState.SKIPPED]
    assert end.kind is wire.EndKind.TIMED_OUT


def test_after_a_signal_no_step_runs(launcher: Launcher) -> None:
    launcher.start_steps(Step("a", b"echo ready; sleep 60"), Step("b", b"echo never", always=True))
    while not (isinstance(got := launcher.next(), wire.LogData) and b"ready" in bytes(got.data)):
        pass
    launcher.send(wire.encode_signal(15))
    log, progress, end = launcher.end_of_steps()
    assert b"never" not in log
    assert [step.state for step in progress] == [StepState.INTERRUPTED, StepState.SKIPPED]
    assert end.left == 0


def test_steps_go_on_without_a_follower_and_are_told_to_the_next(launcher: Launcher, later: Launcher) -> None:
    """What makes a job of many steps survive the runner: nobody outside has to say which one is next."""
    go = Path(launcher.launch.root).parent / "go"
    launcher.start_steps(
        Step("a", f"until [ -e {go} ]; do sleep 0.01; done; echo a".encode()),
        Step("b", b"echo b"),
        Step("c", b"exit 4"),
    )
    until("it runs", lambda: launcher.file("record").exists() and launcher.record.get("kind") == "running")
    launcher.process.kill()
    go.touch()
    launcher.until_record("exited")
    later.follow()
    log, progress, end = later.end_of_steps()
    assert [line for line in log.splitlines() if not line.startswith(b"runner:")] == [b"a", b"b"]
    assert [step.state for step in progress] == [StepState.SUCCEEDED, StepState.SUCCEEDED, StepState.FAILED]
    assert (end.kind, end.code, end.step) == (wire.EndKind.EXITED, 4, 2)


def test_the_lines_of_steps_are_part_of_the_logs_limit(launcher: Launcher) -> None:
    launcher.start_steps(Step("a", b"head -c 1000 /dev/zero"), Step("b", b"echo more"), log_limit=500)
    log, _, end = launcher.end_of_steps()
    assert len(log) == end.logged == 500
    assert end.dropped > 500


def test_what_a_step_left_running_writes_into_the_next_ones_output(launcher: Launcher) -> None:
    """A server that a step starts is there for the steps that follow; it ends with the job."""
    launcher.start_steps(
        Step("a", b"(while :; do echo beat; sleep 0.02; done) & echo $! >pid"),
        Step("b", b"sleep 0.3; kill -0 $(cat pid)"),
    )
    log, _, end = launcher.end_of_steps()
    assert (end.kind, end.code) == (wire.EndKind.EXITED, 0)
    assert log.partition(b"b: begins")[2].count(b"beat") > 3
    until("the script is gone", lambda: not alive(int(Path(launcher.launch.workspace, "pid").read_text())))
