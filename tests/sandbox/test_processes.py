"""Processes of a container as the host sees them: real processes, in a real cgroup where the test can make one."""

import errno
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from sandbox import processes, procfs
from sandbox.errors import EngineError, Fault, SandboxFault
from sandbox.processes import Process

MARGIN = 10.0


def stat(state: str = "S", threads: int = 1, start: int = 7, command: str = "sh", parent: int = 0) -> str:
    fields = [state, str(parent), *["0"] * 15, str(threads), "0", str(start), *["0"] * 10]
    return f"1 ({command}) {' '.join(fields)}\n"


class Proc:
    """A made-up /proc."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, pid: int | str, cgroup: str | bytes, stat_line: str | None = None) -> None:
        entry = self.folder / str(pid)
        entry.mkdir()
        (entry / "cgroup").write_bytes(cgroup.encode() if isinstance(cgroup, str) else cgroup)
        (entry / "stat").write_text(stat() if stat_line is None else stat_line)


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    monkeypatch.setattr(procfs, "PROC", str(tmp_path))
    return Proc(tmp_path)


def refuse(monkeypatch: pytest.MonkeyPatch, file: str, number: int) -> None:
    """Have a file of /proc not be read."""
    read = procfs.read

    def refusing(pid: int | str, what: str) -> bytes:
        if file == f"{pid}/{what}":
            raise OSError(number, "refused")
        return read(pid, what)

    monkeypatch.setattr(procfs, "read", refusing)


def pids(found: frozenset[Process]) -> set[int]:
    return {process.pid for process in found}


# -- finding them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cgroup",
    [
        "0::/system.slice/docker-ID.scope\n",
        "0::/docker/ID\n",
        "0::/../ID/init.scope\n",  # as seen from another cgroup namespace
        "0::/docker/ID/docker/inner-id\n",  # of a container in the sandbox
        "12:pids:/docker/ID\n0::/\n",
    ],
)
def test_a_process_belongs_to_the_container_that_its_cgroup_names(proc: Proc, cgroup: str) -> None:
    proc.add(1, "0::/init.scope\n")
    proc.add(41, cgroup)
    proc.add(42, "0::/docker/another\n")
    assert processes.of_container("ID") == {Process(41, 7)}


def test_what_is_no_process_is_no_process(proc: Proc) -> None:
    proc.add("self", "0::/docker/ID\n")
    (proc.folder / "meminfo").touch()
    assert processes.of_container("ID") == frozenset()


def test_a_command_with_parentheses_and_spaces_does_not_shift_the_fields(proc: Proc) -> None:
    proc.add(41, "0::/docker/ID\n", stat(command="a) Z 1 (b", start=99))
    assert processes.of_container("ID") == {Process(41, 99)}


@pytest.mark.parametrize("state", ["Z", "X"])
def test_a_zombie_is_no_live_process(proc: Proc, state: str) -> None:
    proc.add(41, "0::/docker/ID\n", stat(state))
    assert processes.of_container("ID") == frozenset()


def test_a_process_that_ends_while_it_is_looked_at_is_left_out(proc: Proc) -> None:
    proc.add(41, "0::/docker/ID\n")
    proc.add(42, "0::/docker/ID\n")
    (proc.folder / "41" / "stat").unlink()
    assert pids(processes.of_container("ID")) == {42}


def test_a_cgroup_name_that_is_no_text_blinds_nobody(proc: Proc) -> None:
    proc.add(41, b"0::/docker/ID/\xff\xfe\n")
    proc.add(42, b"0::/docker/another/\xff\n")
    assert pids(processes.of_container("ID")) == {41}


def test_a_cgroup_path_too_long_to_be_told_hides_nobody(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    proc.add(41, "0::/docker/ID\n")
    proc.add(42, "not told\n")
    refuse(monkeypatch, "42/cgroup", errno.ENAMETOOLONG)
    assert pids(processes.of_container("ID")) == {41, 42}


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("what", ["cgroup", "stat"])
def test_what_cannot_be_seen_is_neither_taken_for_ended_nor_for_a_jobs(
    proc: Proc, monkeypatch: pytest.MonkeyPatch, what: str, number: int
) -> None:
    """The trap: without a free descriptor every process had "ended while we looked", and a job's stayed."""
    proc.add(41, "0::/docker/ID\n")
    refuse(monkeypatch, f"41/{what}", number)
    monkeypatch.setattr(processes, "_kill", None)
    looks: list[Callable[[], object]] = [
        lambda: processes.of_container("ID"),
        lambda: processes.at_rest("ID"),
        lambda: processes.end_others("ID", frozenset(), thawed, soon()),
    ]
    for look in looks:
        with pytest.raises(EngineError, match=r"cannot see .*refused"):
            look()


def test_a_process_is_there_until_it_has_ended() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeping:
        stat = Path(f"/proc/{sleeping.pid}/stat").read_text()
        process = Process(sleeping.pid, int(stat.rpartition(")")[2].split()[19]))
        assert processes.is_there(process)
        assert not processes.is_there(Process(process.pid, process.start_time + 1))  # another one of its number
        sleeping.kill()
        os.waitid(os.P_PID, sleeping.pid, os.WEXITED | os.WNOWAIT)
        assert not processes.is_there(process)
    assert not processes.is_there(process)


def test_at_rest_is_what_serves_no_login(proc: Proc) -> None:
    """The trap: the keeper's own login, which is still ending, would count as having been there at `ready`."""
    cgroup = "0::/docker/ID\n"
    proc.add(40, cgroup, stat(command="tini", parent=2))
    proc.add(41, cgroup, stat(command="sshd", parent=40))
    proc.add(42, cgroup, stat(command="sshd-session", parent=41))
    proc.add(43, cgroup, stat(command="sshd-auth", parent=42))
    proc.add(44, cgroup, stat(command="sudo", parent=42))
    proc.add(45, cgroup, stat(command="python3", parent=44))
    proc.add(46, cgroup, stat(command="dockerd", parent=40))
    assert pids(processes.at_rest("ID")) == {40, 41, 46}


# -- ending them ------------------------------------------------------------------------------------------------------


class Container:
    """A real cgroup with real processes in it, named like a container."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.id = folder.name
        self.children: list[subprocess.Popen[bytes]] = []

    def run(self, program: str, folder: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a Python program in the container; returns once it printed a line."""
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.readline()\n" + program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.children.append(child)
        ((folder or self.folder) / "cgroup.procs").write_text(str(child.pid))
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"up\n"
        return child

    def sleeper(self) -> subprocess.Popen[bytes]:
        return self.run("print('up', flush=True); import time; time.sleep(60)")

    def clear(self) -> None:
        end = time.monotonic() + MARGIN
        while (left := self._all()) and time.monotonic() < end:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        for child in self.children:
            child.wait(MARGIN)
            for stream in (child.stdin, child.stdout):
                if stream:
                    stream.close()
        for folder in sorted(self.folder.rglob("*/"), reverse=True):
            folder.rmdir()
        self.folder.rmdir()

    def _all(self) -> list[int]:
        return [int(pid) for file in self.folder.rglob("cgroup.procs") for pid in file.read_text().split()]


def thawed() -> AbstractContextManager[None]:
    """Stands in for the freezer."""
    return nullcontext()


def open_descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir()}


def soon() -> float:
    return time.monotonic() + MARGIN


@pytest.fixture
def container() -> Iterator[Container]:
    name = secrets.token_hex(32)
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids"):
        folder = Path(root) / name
        try:
            folder.mkdir()
        except OSError:
            continue
        if not (folder / "cgroup.procs").exists():
            folder.rmdir()
            continue
        made = Container(folder)
        yield made
        made.clear()
        return
    pytest.skip("no cgroup can be made on this machine")


def test_every_process_but_the_kept_is_ended(container: Container) -> None:
    kept, first, second = container.sleeper(), container.sleeper(), container.sleeper()
    keep = frozenset(p for p in processes.of_container(container.id) if p.pid == kept.pid)
    assert processes.end_others(container.id, keep, thawed, soon()) == 2
    assert (first.wait(MARGIN), second.wait(MARGIN)) == (-signal.SIGKILL, -signal.SIGKILL)
    assert kept.poll() is None
    assert processes.of_container(container.id) == keep


def test_a_process_that_ignores_every_signal_in_a_session_of_its_own_is_ended(container: Container) -> None:
    child = container.run(
        "import os, signal, time; os.setsid()\n"
        "for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(number, signal.SIG_IGN)\n"
        "print('up', flush=True); time.sleep(60)"
    )
    assert processes.end_others(container.id, frozenset(), thawed, soon()) == 1
    assert child.wait(MARGIN) == -signal.SIGKILL


def test_a_process_in_a_nested_cgroup_is_found_and_ended(container: Container) -> None:
    nested = container.folder / "docker" / "inner"
    nested.mkdir(parents=True)
    child = container.run("print('up', flush=True); import time; time.sleep(60)", nested)
    assert processes.end_others(container.id, frozenset(), thawed, soon()) == 1
    assert child.wait(MARGIN) == -signal.SIGKILL


def test_a_process_in_a_cgroup_with_a_hostile_name_is_found_and_ended(container: Container) -> None:
    nested = Path(os.fsdecode(os.fsencode(container.folder) + b"/\xff (x) \xfe"))
    nested.mkdir()
    child = container.run("print('up', flush=True); import time; time.sleep(60)", nested)
    assert processes.end_others(container.id, frozenset(), thawed, soon()) == 1
    assert child.wait(MARGIN) == -signal.SIGKILL


def test_a_process_deeper_than_a_path_can_tell_is_found_and_ended(container: Container) -> None:
    steps = 18
    before = Path.cwd()
    try:
        os.chdir(container.folder)
        for _ in range(steps):
            Path("d" * 240).mkdir()
            os.chdir("d" * 240)
        child = container.run("print('up', flush=True); import time; time.sleep(60)", Path())
        assert processes.end_others(container.id, frozenset(), thawed, soon()) == 1
        assert child.wait(MARGIN) == -signal.SIGKILL
    finally:
        for _ in range(steps):
            os.chdir("..")
            Path("d" * 240).rmdir()
        os.chdir(before)


def test_a_process_whose_first_thread_has_ended_is_no_zombie(container: Container) -> None:
    child = container.run(
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start(); print('up', flush=True)\n"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    end = soon()
    while b") Z " not in Path(f"/proc/{child.pid}/stat").read_bytes():
        assert time.monotonic() < end, "its first thread did not end"
    assert processes.end_others(container.id, frozenset(), thawed, soon()) == 1
    assert child.wait(MARGIN) == -signal.SIGKILL


def test_children_that_are_forked_all_the_time_are_ended(container: Container) -> None:
    # One that forks and ends, again and again. Without a real freezer the listing may miss it in one round or another.
    container.run(
        "import os, time; print('up', flush=True)\n"
        "end = time.monotonic() + 20\n"
        "while time.monotonic() < end:\n"
        "    if os.fork(): os._exit(0)\n"
        "    time.sleep(0.002)"
    )
    end = soon()
    while processes.of_container(container.id):
        assert time.monotonic() < end
        try:
            processes.end_others(container.id, frozenset(), thawed, soon())
        except SandboxFault as fault:
            assert fault.fault is Fault.PROCESSES_LEFT  # noqa: PT017


def test_what_is_left_after_a_first_try_is_frozen_while_it_is_listed_and_killed_and_thawed_to_die(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has forked away meanwhile."""
    steps: list[str] = []

    @contextmanager
    def freeze() -> Iterator[None]:
        steps.append("freeze")
        yield
        steps.append("thaw")

    kill, wait = processes._kill, processes._wait_for_end

    def forking(process: Process) -> int | None:
        if "kill" not in steps:
            container.sleeper()
        steps.append("kill")
        return kill(process)

    def waiting(handles: list[int], deadline: float) -> None:
        steps.append("wait")
        wait(handles, deadline)

    container.sleeper()
    monkeypatch.setattr(processes, "_kill", forking)
    monkeypatch.setattr(processes, "_wait_for_end", waiting)
    assert processes.end_others(container.id, frozenset(), freeze, soon()) == 2
    assert steps == ["kill", "wait", "freeze", "kill", "thaw", "wait"]


def test_a_quiet_container_is_not_frozen_at_all(container: Container) -> None:
    def never() -> AbstractContextManager[None]:
        raise AssertionError("it was frozen")

    container.sleeper()
    keep = processes.of_container(container.id)
    assert processes.end_others(container.id, keep, never, soon()) == 0


def test_a_zombie_of_the_job_is_not_waited_for(container: Container) -> None:
    child = container.sleeper()
    child.kill()
    end = soon()
    while processes.of_container(container.id):
        assert time.monotonic() < end
    assert processes.end_others(container.id, frozenset(), thawed, soon()) == 0
    assert child.returncode is None  # nobody reaped it: it was a zombie all along


def test_the_kept_process_with_a_reused_id_is_not_kept(container: Container) -> None:
    child = container.sleeper()
    [process] = processes.of_container(container.id)
    earlier = Process(process.pid, process.start_time - 1)
    assert processes.end_others(container.id, frozenset({earlier}), thawed, soon()) == 1
    assert child.wait(MARGIN) == -signal.SIGKILL


def test_a_process_with_the_id_of_a_listed_one_is_not_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as bystander:
        start = int(Path(f"/proc/{bystander.pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
        assert processes._kill(Process(bystander.pid, start - 1)) is None
        ready, _, _ = select.select([handle := os.pidfd_open(bystander.pid)], [], [], 0.1)
        os.close(handle)
        bystander.kill()
    assert ready == []


def test_a_process_that_is_gone_already_is_no_error() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait(MARGIN)
    assert processes._kill(Process(child.pid, 1)) is None


def test_what_cannot_be_ended_is_a_fault_and_not_a_success(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    proc.add(41, "0::/docker/ID\n")
    monkeypatch.setattr(processes, "_kill", lambda _: None)
    with pytest.raises(SandboxFault, match="1 of its job's processes") as caught:
        processes.end_others("ID", frozenset(), thawed, soon())
    assert caught.value.fault is Fault.PROCESSES_LEFT


def test_waiting_for_the_end_has_a_deadline(monkeypatch: pytest.MonkeyPatch, proc: Proc) -> None:
    reader, writer = os.pipe()  # never readable, as the pidfd of a process in an uninterruptible sleep
    began = time.monotonic()
    processes._wait_for_end([reader], began + 0.2)
    assert 0.15 < time.monotonic() - began < 0.2 + 1
    os.close(writer)


def test_no_descriptor_is_left_open(container: Container) -> None:
    container.sleeper()
    container.sleeper()
    before = open_descriptors()
    processes.end_others(container.id, frozenset(), thawed, soon())
    assert open_descriptors() <= before


def test_without_a_free_descriptor_those_that_were_opened_are_closed(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        container.sleeper()
    opening = os.pidfd_open
    opened: list[int] = []

    def open_one(pid: int) -> int:
        if opened:
            raise OSError(errno.EMFILE, "Too many open files")
        opened.append(opening(pid))
        return opened[-1]

    monkeypatch.setattr(os, "pidfd_open", open_one)
    with pytest.raises(EngineError, match="Too many open files"):
        processes.end_others(container.id, frozenset(), thawed, soon())
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


def test_a_missing_right_to_end_processes_is_told_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: AppArmor's profile for containers lets a keeper see a sandbox's processes and not signal them."""

    def refused(*_: object) -> None:
        raise PermissionError("as AppArmor does")

    monkeypatch.setattr(signal, "pidfd_send_signal", refused)
    own = Path(f"/proc/{os.getpid()}/stat").read_bytes().rpartition(b")")[2].split()[19]
    with pytest.raises(SandboxFault, match="CAP_KILL and no AppArmor profile") as caught:
        processes._kill(Process(os.getpid(), int(own)))
    assert caught.value.fault is Fault.PROCESSES_LEFT
