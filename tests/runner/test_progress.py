"""The messages for a person at a terminal while a command takes long; nobody else gets them. Needs no sandbox."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import programs
from tests.e2e.conftest import DEADLINE
from tests.runner.api import process


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """That of the user of a service which starts nothing."""
    state = tmp_path_factory.mktemp("state")
    with process.service(state) as url:
        known = {"RUNNER_URL": url, "RUNNER_TOKEN_FILE": str(state / "token"), "TERM": "xterm", "COLUMNS": "100"}
        environment = {**os.environ, **known}
        assert programs.run(programs.runner, "drain", environment=environment).returncode == 0
        yield environment


class Terminal:
    """A terminal that is a command's stderr."""

    def __init__(self) -> None:
        self._ours, self.theirs = pty.openpty()
        self.shown = b""

    def read_until(self, pattern: bytes) -> str:
        """Return what the pattern's group is."""
        while not (found := re.search(pattern, self.shown)):
            self.shown += os.read(self._ours, 4096)
        return found[1].decode()

    def close(self) -> None:
        """Read what is left of what a program wrote that has ended."""
        os.close(self.theirs)
        with contextlib.suppress(OSError):  # how a terminal ends that nobody has open
            while more := os.read(self._ours, 4096):
                self.shown += more
        os.close(self._ours)


@pytest.fixture
def job_file(tmp_path: Path) -> str:
    """A job, beside a folder that it may start with."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_bytes(os.urandom(3_000_000))
    (tmp_path / "job.yaml").write_text("script: make\n")
    return str(tmp_path / "job.yaml")


def submit(*more: str, stderr: int, environment: dict[str, str]) -> programs.Program:
    folder = str(Path(more[-1]).parent / "folder")
    words = ("submit", "--wait", "--upload", folder, *more)
    return programs.start(programs.runner, *words, stdout=programs.PIPE, stderr=stderr, environment=environment)


def test_a_person_is_told_how_far_the_folder_is_and_that_the_job_waits(
    environment: dict[str, str], job_file: str
) -> None:
    terminal = Terminal()
    program = submit(job_file, stderr=terminal.theirs, environment=environment)
    job = terminal.read_until(rb"runner: job (\w+)")
    terminal.read_until(b"the job (waits): The runner is draining")
    following = Terminal()
    logs = programs.start(
        programs.runner, "logs", "-f", job, stdout=programs.PIPE, stderr=following.theirs, environment=environment
    )  # fmt: skip
    following.read_until(b"the job (waits): The runner is draining")
    programs.run(programs.runner, "cancel", job, environment=environment)
    log, _ = program.communicate(timeout=DEADLINE)
    assert logs.communicate(timeout=DEADLINE)[0] == log
    for each in (terminal, following):
        each.close()
    assert ("cancelled" in log, "waits" in log) == (True, False)
    for told in (b"packing the folder", b"uploading", b"3.0/3.0 MB"):
        assert told in terminal.shown


@pytest.mark.parametrize("as_json", [False, True], ids=["on a pipe", "with --json on a terminal"])
def test_programs_are_told_nothing_of_that(environment: dict[str, str], job_file: str, as_json: bool) -> None:
    terminal = Terminal()
    if as_json:
        program = submit("--json", job_file, stderr=terminal.theirs, environment=environment)
        job = terminal.read_until(rb"runner: job (\w+)\r\n")
    else:
        program = submit(job_file, stderr=programs.PIPE, environment=environment)
        assert program.stderr
        first = program.stderr.readline()
        job = first.split()[-1]
        assert first == f"runner: job {job}\n"
    programs.run(programs.runner, "cancel", job, environment=environment)
    out, err = program.communicate(timeout=DEADLINE)
    terminal.close()
    log = terminal.shown.decode().replace("\r\n", "\n").removeprefix(f"runner: job {job}\n") if as_json else out
    assert (log, err) == ("runner: The script was cancelled by the operator.\n", "")


def test_whoever_stops_following_is_told_how_to_go_on(environment: dict[str, str], job_file: str) -> None:
    program = submit(job_file, stderr=programs.PIPE, environment=environment)
    assert program.stderr
    job = program.stderr.readline().split()[-1]
    program.send_signal(signal.SIGINT)
    assert program.communicate(timeout=DEADLINE) == ("", f"runner: The job goes on: runner logs -f {job}\n")
    assert program.returncode == 128 + signal.SIGINT
    programs.run(programs.runner, "cancel", job, environment=environment)
