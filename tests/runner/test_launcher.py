"""The launcher by itself, over pipes, as each Python that a sandbox may have runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import pytest

from runner.execution import wire
from tests.runner.conftest import alive, end_leftovers

LAUNCHER = str(resources.files("runner.execution").joinpath("launcher.py"))


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
        """Have a script started."""
        assert isinstance(self.next(), wire.Hello)
        self.launch = replace(self.launch, **changes)  # type: ignore[arg-type]
        self.send(wire.encode_launch(self.launch, len(script)) + script)

    def send(self, data: bytes) -> None:
        """Send bytes."""
        assert self.process.stdin
        self.process.stdin.write(data)
        self.process.stdin.flush()

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
        """The record on disk."""
        found: dict[str, object] = json.loads(self.file("record").read_bytes())
        return found

    def file(self, name: str) -> Path:
        """Return the path of a file of the attempt."""
        return Path(self.launch.root, self.launch.attempt, name)

    def until_record(self, kind: str) -> dict[str, object]:
        """Wait until the record is of a kind: nobody tells, as the follower is gone."""
        end = time.monotonic() + 20
        while self.record["kind"] != kind:
            assert time.monotonic() < end, self.record
            time.sleep(0.01)
        return self.record


@pytest.fixture(params=_pythons(), ids=lambda path: Path(path).resolve().name)
def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Launcher]:
    """Start a launcher that waits for a job."""
    command = [request.param, "-I", "-S", LAUNCHER]
    launch = wire.Launch("a1", (), {}, None, 0.3, 1 << 30, str(tmp_path / "workspace"), str(tmp_path / "attempts"))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        running = Launcher(process, launch)
        yield running
        process.kill()
    if running.file("record").exists():
        end_leftovers(running.record)


def test_a_script(launcher: Launcher) -> None:
    launcher.start(b"echo out; exit 3")
    output, end = launcher.end()
    assert output == b"out\n"
    assert end == wire.Ended(wire.EndKind.EXITED, 3, 0, "", 4, 0, "")
    assert launcher.process.wait(20) == 0
    assert launcher.record["kind"] == "exited"
    assert launcher.file("record").stat().st_size == 4096
    modes = {name: launcher.file(name).stat().st_mode & 0o777 for name in ("", "script", "log", "record")}
    assert modes == {"": 0o700, "script": 0o700, "log": 0o600, "record": 0o600}


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
    assert launcher.process.stdin
    launcher.process.stdin.close()
    assert launcher.process.wait(20) == 0
    assert not launcher.file("").exists()


def test_a_connection_that_ends_within_the_script(launcher: Launcher) -> None:
    assert isinstance(launcher.next(), wire.Hello)
    launcher.send(wire.encode_launch(launcher.launch, 100) + b"echo half; ")
    assert launcher.process.stdin
    launcher.process.stdin.close()
    assert launcher.process.wait(20) == 0
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


def test_many_orphans_leave_no_zombies(launcher: Launcher) -> None:
    launcher.start(
        b"for i in $(seq 200); do (setsid true &); done; sleep 0.3; ps -o stat= --ppid $PPID | grep -c Z || :"
    )
    assert launcher.end()[0].split()[-1] == b"0"
