"""Frozen containers, in real cgroups of both versions that the tests mount for themselves."""

import errno
import os
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox import freezer, processes
from sandbox.errors import EngineError, Fault, SandboxFault
from sandbox.freezer import Freezer

QUIET = 0.2
"""Seconds without an answer after which a process is taken to stand still."""
MARGIN = 20.0
ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"


@dataclass
class Echo:
    """A process that answers each line, as long as it may."""

    id: str
    group: Path
    process: subprocess.Popen[str]

    def ask(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("there?\n")
        self.process.stdin.flush()

    def answers(self, seconds: float) -> bool:
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return bool(ready) and self.process.stdout.readline() == "there?\n"

    def is_alive(self) -> bool:
        self.ask()
        return self.answers(MARGIN)

    def is_still(self) -> bool:
        self.ask()
        return not self.answers(QUIET)


@contextmanager
def mounted(place: Path, kind: str, *options: str) -> Iterator[None]:
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", kind, *options, "none", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(params=["first version", "second version"])
def echo(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Echo]:
    """One in a cgroup below its container's own, as sysbox nests them."""
    name = secrets.token_hex(32)
    monkeypatch.setattr(freezer, "_CGROUPS", tmp_path)
    first = request.param == "first version"
    mount = mounted(tmp_path / "freezer", "cgroup", "-o", "freezer") if first else mounted(tmp_path, "cgroup2")
    with mount:
        group = tmp_path / "freezer" / f"test-{name}" if first else tmp_path / f"docker-{name}.scope"
        nested = group / "init.scope"
        nested.mkdir(parents=True)
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", ECHO], stdin=pipe, stdout=pipe, text=True) as process:
            (nested / "cgroup.procs").write_text(str(process.pid))
            made = Echo(name, group, process)
            try:
                assert made.is_alive()
                yield made
            finally:
                process.kill()
                Freezer().thaw(group)
        for folder in (nested, group):
            remove(folder)


def remove(folder: Path) -> None:
    """Remove a cgroup: the kernel needs a moment after its last process."""
    end = time.monotonic() + MARGIN
    while folder.exists():
        try:
            folder.rmdir()
        except OSError:
            assert time.monotonic() < end


def test_the_cgroup_of_a_container_is_found_from_a_process_in_a_nested_one(echo: Echo) -> None:
    assert freezer.group_of(echo.process.pid, echo.id) == echo.group


def test_a_keeper_that_cannot_see_a_containers_cgroup_says_what_it_needs(echo: Echo) -> None:
    with pytest.raises(EngineError, match="`cgroup: host`"):
        freezer.group_of(os.getpid(), echo.id)


def test_a_container_that_has_ended_is_told_as_such() -> None:
    """The trap: it dies while it boots, and that is taken for a defect of the keeper's."""
    with subprocess.Popen(["true"]) as process:
        process.wait(MARGIN)
    with pytest.raises(SandboxFault) as caught:
        freezer.group_of(process.pid, "0" * 64)
    assert caught.value.fault is Fault.STOPPED


def test_a_container_stands_still_for_the_length_of_a_block(echo: Echo) -> None:
    with Freezer().still(echo.group):
        assert echo.is_still()
    assert echo.answers(MARGIN)


def test_a_container_goes_on_whatever_happens_in_the_block(echo: Echo) -> None:
    with pytest.raises(ZeroDivisionError), Freezer().still(echo.group):
        raise ZeroDivisionError
    assert echo.is_alive()


def test_a_container_stands_still_until_nobody_wants_that_any_more(echo: Echo) -> None:
    """The trap: the disk is short while a sandbox is looked at, and the end of the look lets its writer go on."""
    ours = Freezer()
    with ours.still(echo.group):
        with ours.still(echo.group):
            ours.freeze(echo.group)
        ours.freeze(echo.group)
    assert ours.is_wanted(echo.group)
    assert echo.is_still()
    ours.thaw(echo.group)
    assert not ours.is_wanted(echo.group)
    assert echo.answers(MARGIN)


def test_what_an_earlier_keeper_froze_goes_on(echo: Echo) -> None:
    Freezer().freeze(echo.group)
    assert echo.is_still()
    Freezer().wake(echo.group)
    assert echo.answers(MARGIN)


def test_what_somebody_wants_to_stand_still_is_not_woken(echo: Echo) -> None:
    """The trap: a sandbox that stands still for the disk is looked at, and writes on."""
    ours = Freezer()
    ours.freeze(echo.group)
    ours.wake(echo.group)
    assert echo.is_still()
    ours.thaw(echo.group)
    assert echo.answers(MARGIN)


def test_what_stands_still_can_be_ended_without_going_on(echo: Echo) -> None:
    """The trap: under the first version of cgroups it would withstand the removal of its container."""
    ours = Freezer()
    ours.freeze(echo.group)
    echo.ask()
    processes.end_first(processes.of_container(echo.id), echo.process.pid)
    ours.thaw(echo.group)
    assert echo.process.wait(MARGIN) == -9
    assert echo.process.stdout
    assert echo.process.stdout.read() == ""


def test_one_that_is_gone_cannot_stand_still_and_need_not_go_on(tmp_path: Path) -> None:
    ours = Freezer()
    with pytest.raises(SandboxFault) as caught:
        ours.freeze(tmp_path / "gone")
    assert caught.value.fault is Fault.STOPPED
    assert not ours.is_wanted(tmp_path / "gone")
    ours.thaw(tmp_path / "gone")


def test_a_process_that_hangs_in_the_kernel_ends_the_try_and_the_others_go_on(
    echo: Echo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezer, "DEADLINE", 0.05)
    monkeypatch.setattr(freezer, "_read", lambda _: "FREEZING\nfrozen 0\n")  # as the kernel answers then
    with pytest.raises(SandboxFault, match="hangs in the kernel") as caught, Freezer().still(echo.group):
        raise AssertionError
    assert caught.value.fault is Fault.UNFREEZABLE
    assert echo.is_alive()


def test_what_cannot_be_read_is_not_taken_for_ended(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", refused)
        with pytest.raises(EngineError, match="Too many open files"):
            freezer.group_of(echo.process.pid, echo.id)


def test_a_keeper_that_may_not_freeze_says_what_it_needs(echo: Echo) -> None:
    for step in (["--bind", str(echo.group), str(echo.group)], ["-o", "remount,bind,ro", str(echo.group)]):
        subprocess.run(["mount", *step], check=True)
    try:
        with pytest.raises(EngineError, match=r"may not freeze.*writable"), Freezer().still(echo.group):
            raise AssertionError
    finally:
        subprocess.run(["umount", str(echo.group)], check=True)
