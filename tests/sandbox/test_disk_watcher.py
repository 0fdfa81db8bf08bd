"""The watcher on a real, small file system, with real writers that it really stops. Needs root."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from sandbox.disk import watcher as watcher_module
from sandbox.disk.watch import ALARM, RELIEF, DiskWatch
from sandbox.disk.watcher import DiskWatcher, OnDisk, rooms
from sandbox.errors import EngineError, Fault, SandboxFault
from sandbox.processes import Process
from tests.waiting import until

MIB = 1024**2
FASTEST = 20 * MIB
RESERVE = 12 * MIB
ROOM = RESERVE + int(3 * FASTEST)
"""Bytes of the file system: three seconds."""
DEADLINE = 30.0

WRITER = """
import sys, time
path, rate = sys.argv[1], int(sys.argv[2])
began, wrote = time.monotonic(), 0
with open(path, "wb", buffering=0) as file:
    while True:
        file.write(b"x" * 65536)
        wrote += 65536
        time.sleep(max(0.0, wrote / rate - (time.monotonic() - began)))
"""


class Jobs:
    """Stands in for the keeper: each sandbox is a folder and a process that writes into it at a rate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Where new ones write."""
        self.lock = threading.Lock()
        self.running: dict[str, tuple[subprocess.Popen[bytes] | None, OnDisk]] = {}
        self.trees: dict[str, Path] = {}
        self.condemned: list[tuple[str, Fault, str]] = []
        self.evicted: list[str] = []
        self.thawed: list[str] = []
        self.free_when_condemned: list[int] = []
        self.may_end = threading.Event()
        """Not set while a test looks at what stands still: nobody is ended until it is."""
        self.may_end.set()
        self.trouble: list[Exception] = []
        self.lists: Callable[[], object] = lambda: None

    def start(self, name: str, rate: int, limit: int = 2**60, lent: bool = True) -> None:
        tree = self.trees[name] = self.folder / name
        tree.mkdir()
        command = [sys.executable, "-c", WRITER, str(tree / "file"), str(rate)]
        process = subprocess.Popen(command) if rate else None
        with self.lock:
            self.running[name] = (process, OnDisk(lent, limit, "no-such-container", (str(tree),)))

    def end(self, name: str) -> None:
        with self.lock:
            process, _ = self.running.pop(name)
        if process:
            process.kill()
            process.wait()
        with suppress(FileNotFoundError):
            (self.trees[name] / "file").unlink()

    def state(self, name: str) -> str:
        process, _ = self.running[name]
        assert process
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def sandboxes(self) -> Mapping[str, OnDisk]:
        self.lists()
        with self.lock:
            return {name: sandbox for name, (_, sandbox) in self.running.items()}

    def freeze(self, name: str) -> None:
        if self.trouble:
            raise self.trouble.pop()
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        if self.trouble:
            raise self.trouble.pop()
        self.thawed.append(name)
        self._signal(name, signal.SIGCONT)

    def _signal(self, name: str, number: int) -> None:
        process, _ = self.running[name]
        if process:
            process.send_signal(number)

    def condemn(self, name: str, fault: Fault, sentence: str) -> None:
        self.free_when_condemned.append(rooms([self.folder])[0].free.bytes)
        assert self.may_end.wait(DEADLINE)
        self.end(name)
        self.condemned.append((name, fault, sentence))

    def evict(self, name: str, sentence: str) -> None:
        self.end(name)
        self.evicted.append(name)


def mount(place: Path) -> Path:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)], check=True)
    return place


def unmount(place: Path) -> None:
    subprocess.run(["umount", "--lazy", str(place)], check=True)
    place.rmdir()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = mount(tmp_path / "disk")
    yield place
    unmount(place)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Path]:
    """Where the runtime keeps what sandboxes write, on a file system of its own; a test may take it away."""
    place = mount(tmp_path / "other")
    yield place
    if place.is_mount():
        unmount(place)


@pytest.fixture
def jobs(disk: Path) -> Iterator[Jobs]:
    made = Jobs(disk)
    yield made
    for name in list(made.running):
        made.end(name)


@pytest.fixture
def watcher(jobs: Jobs) -> Iterator[DiskWatcher]:
    """A running watcher."""
    made = DiskWatcher(DiskWatch(FASTEST, RESERVE), jobs, [jobs.folder])
    thread = threading.Thread(target=made.run)
    thread.start()
    until("it may lend", lambda: made.refusal is None)
    yield made
    made.stop()
    thread.join(DEADLINE)
    assert not thread.is_alive()


def is_refusing(watcher: DiskWatcher) -> bool:
    return watcher.refusal is not None


def test_a_writer_is_stopped_before_the_reserve_and_ended_and_the_others_go_on(
    jobs: Jobs, watcher: DiskWatcher
) -> None:
    jobs.start("calm", MIB // 4)
    until("it is measured", lambda: watcher.usage("calm"))
    jobs.may_end.clear()
    jobs.start("wild", int(0.8 * FASTEST))
    until("both stand still", lambda: watcher.is_frozen("calm") and watcher.is_frozen("wild"))
    assert is_refusing(watcher)
    with pytest.raises(SandboxFault, match="stood still") as caught:
        watcher.wait_while_frozen("calm", time.monotonic())
    assert caught.value.fault is Fault.HOST_DISK
    jobs.may_end.set()
    watcher.wait_while_frozen("calm", time.monotonic() + DEADLINE)
    [(name, fault, sentence)] = jobs.condemned
    assert (name, fault) == ("wild", Fault.HOST_DISK), sentence
    assert RESERVE <= jobs.free_when_condemned[0] <= RESERVE + ALARM * FASTEST
    until("the other goes on", lambda: jobs.thawed == ["calm"] and jobs.state("calm") != "T")
    assert not is_refusing(watcher)
    assert not watcher.is_frozen("calm")


def test_one_over_its_own_limit_is_ended_while_there_is_room(jobs: Jobs, watcher: DiskWatcher) -> None:
    jobs.start("small", MIB, limit=MIB)
    jobs.start("large", MIB // 4, limit=50 * MIB)
    until("it is condemned", lambda: jobs.condemned)
    [(name, fault, sentence)] = jobs.condemned
    assert (name, fault) == ("small", Fault.DISK_LIMIT)
    assert "its profile allows 1 MiB (`disk`)" in sentence
    assert not watcher.is_frozen("large")


def test_caches_of_an_idle_one_are_given_up_while_the_disk_is_short(
    jobs: Jobs, watcher: DiskWatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox.disk.watch.CACHE", MIB)
    jobs.start("idle", 0, lent=False)
    (jobs.folder / "idle" / "file").write_bytes(b"x" * (ROOM - RESERVE - int(RELIEF * FASTEST) + MIB))
    until("it is evicted", lambda: jobs.evicted == ["idle"])
    until("it may lend again", lambda: watcher.refusal is None)
    assert jobs.condemned == []


def test_an_engine_that_refuses_to_pause_is_asked_again(
    jobs: Jobs, watcher: DiskWatcher, caplog: pytest.LogCaptureFixture
) -> None:
    jobs.trouble = [EngineError("not now"), EngineError("nor now")]
    jobs.start("wild", int(0.5 * FASTEST))
    until("it is condemned", lambda: jobs.condemned)
    assert caplog.text.count("wild: freeze failed: no") == 2
    assert jobs.free_when_condemned[0] >= RESERVE


def test_a_look_that_fails_is_told_once_and_nothing_is_lent_until_one_works(
    jobs: Jobs, watcher: DiskWatcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watcher_module, "LATE", 1.5)

    def fail() -> None:
        raise OSError("it is gone")

    jobs.lists = fail
    until("it says so", lambda: watcher.refusal)
    assert "has not told for" in (watcher.refusal or "")
    assert caplog.text.count("cannot look after the host's disk") == 1
    jobs.lists = lambda: None
    until("it may lend", lambda: watcher.refusal is None)


def test_a_file_system_with_several_places_counts_once(tmp_path: Path, disk: Path) -> None:
    (disk / "other").mkdir()
    found = rooms([disk, disk / "other", tmp_path])
    assert [room.size.bytes for room in found] == [ROOM, found[1].size.bytes]
    status = os.statvfs(tmp_path)
    assert found[1].free.bytes == pytest.approx(status.f_bavail * status.f_frsize, rel=0.01)


def places(watcher: DiskWatcher) -> list[str]:
    return [room.place for room in watcher.rooms]


def test_the_runtimes_own_file_system_holds_its_reserve_too(jobs: Jobs, watcher: DiskWatcher, other: Path) -> None:
    """The trap: sysbox keeps some of a sandbox's folders elsewhere, mostly on the host's own disk."""
    watcher.follow([other])
    until("it is looked at", lambda: places(watcher) == [str(jobs.folder), str(other)])
    jobs.start("calm", MIB // 4)
    jobs.folder = other
    jobs.start("wild", int(0.8 * FASTEST))
    until("it is condemned", lambda: jobs.condemned)
    [(name, fault, sentence)] = jobs.condemned
    assert (name, fault) == ("wild", Fault.HOST_DISK)
    assert f"are left at {other}, of which" in sentence
    assert RESERVE <= jobs.free_when_condemned[0] <= RESERVE + ALARM * FASTEST
    until("the other goes on", lambda: jobs.thawed == ["calm"] and watcher.refusal is None)


def test_the_runtimes_own_file_system_may_go_and_come_back(
    jobs: Jobs, watcher: DiskWatcher, other: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watcher.follow([other])
    until("it is looked at", lambda: places(watcher) == [str(jobs.folder), str(other)])
    unmount(other)
    until("it is gone", lambda: places(watcher) == [str(jobs.folder)])
    assert watcher.refusal is None
    mount(other)
    until("it is back", lambda: places(watcher) == [str(jobs.folder), str(other)])
    watcher.follow([])
    until("it is not wanted any more", lambda: places(watcher) == [str(jobs.folder)])
    assert "cannot look after" not in caplog.text


def test_one_that_goes_in_the_middle_of_a_look_is_no_error(
    disk: Path, other: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = os.statvfs

    def gone_meanwhile(place: Path) -> os.statvfs_result:
        if place == other:
            unmount(other)
        return look(place)

    monkeypatch.setattr("os.statvfs", gone_meanwhile)
    assert [room.place for room in rooms([disk], [other])] == [str(disk)]


def test_on_one_file_system_the_runtimes_own_place_is_no_other(disk: Path) -> None:
    (disk / "other").mkdir()
    assert [room.place for room in rooms([disk], [disk / "other", disk / "none"])] == [str(disk)]


def test_what_is_wanted_last_holds_however_slow_the_engine_was(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: a pause that is finished after the sandbox was told to go on."""
    watch = DiskWatch(FASTEST, RESERVE)
    wanted = iter([True, False, False])
    monkeypatch.setattr(watch, "is_frozen", lambda _: next(wanted))
    jobs.start("slow", MIB)
    DiskWatcher(watch, jobs, [jobs.folder])._settle("slow")
    assert jobs.thawed == ["slow"]
    assert jobs.state("slow") != "T"


def test_a_measurement_that_fails_in_an_unforeseen_way_is_answered_all_the_same(
    jobs: Jobs, watcher: DiskWatcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The trap: one that is waited for for ever, and nobody else is measured."""
    left = [OSError("no process can be started")]

    def of_container(_: str) -> frozenset[Process]:
        if left:
            raise left.pop()
        return frozenset()

    monkeypatch.setattr("sandbox.processes.of_container", of_container)
    jobs.start("one", MIB // 4)
    until("it is measured the second time", lambda: watcher.usage("one"))
    assert "no process can be started" in caplog.text
