"""A real OpenSSH server that stands in for a sandbox, and leases to it that count their calls."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from runner import outcome as outcomes
from runner.errors import DetachedError, LeaseError, LeaseLostError, LeaseUnreachableError
from runner.execution.attempt import resume_attempt, run_attempt
from runner.execution.cancellation import Cancellation
from runner.execution.lease import Access
from runner.execution.log import Log
from runner.execution.marker import Marker
from runner.execution.options import Note, Settings
from runner.execution.supervisor import identity
from runner.job import Job
from runner.outcome import Outcome
from runner.placement import ONLY_DEFAULT, Profiles

SSHD = "/usr/sbin/sshd"

_CONFIG = """\
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/client_key.pub
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
LogLevel ERROR
# A login shell started by sshd reads ~/.bashrc unless it believes to be a nested one: not the subject of these tests.
SetEnv SHLVL=2
"""


def _keygen(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True)


def children_of(pid: int) -> list[int]:
    """Return the process ids of a process's children."""
    with contextlib.suppress(FileNotFoundError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def alive(pid: int) -> bool:
    """Say whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass
class Sandbox:
    """A place to run scripts over SSH, as the user of the tests: each way in is an OpenSSH server of its own."""

    folder: Path
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def access(self) -> Access:
        """Return a fresh way in."""
        ours, theirs = connected_pair()
        with theirs:
            command = [SSHD, "-i", "-e", "-f", str(self.folder / "config")]
            self.servers.append(subprocess.Popen(command, stdin=theirs.fileno(), stdout=theirs.fileno()))
        return Access(
            socket=ours,
            user=getpass.getuser(),
            host_key=(self.folder / "host_key.pub").read_text(),
            client_key=(self.folder / "client_key").read_text(),
        )

    def settings(self, **changes: float) -> Settings:
        """Return settings whose places exist here."""
        places = Settings(workspace=str(self.folder / "workspace"), attempts=str(self.folder / "attempts"))
        return replace(places, **changes)  # type: ignore[arg-type]

    def signal(self, number: int) -> None:
        """Signal the server's side of every connection."""
        for server in self.servers:
            for child in children_of(server.pid):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended by itself just now
                    if Path(f"/proc/{child}/comm").read_text().startswith("sshd"):
                        os.kill(child, number)
            server.send_signal(number)

    def cut(self) -> None:
        """Kill the server's side of every connection."""
        self.signal(signal.SIGKILL)
        for server in self.servers:
            server.wait()
        self.servers.clear()


def connected_pair() -> tuple[socket.socket, socket.socket]:
    """Return two ends of a TCP connection on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    return ours, theirs


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make the configuration and the keys of an OpenSSH server of our own."""
    if not Path(SSHD).exists():
        pytest.fail(f"These tests need OpenSSH's server at {SSHD}: install the package openssh-server.")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # the server's own demand when root starts it
    folder = tmp_path_factory.mktemp("sshd")
    _keygen(folder / "host_key")
    _keygen(folder / "client_key")
    (folder / "config").write_text(_CONFIG.format(folder=folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sandbox(sshd: Path) -> Iterator[Sandbox]:
    """A sandbox for one test."""
    sandbox = Sandbox(sshd)
    yield sandbox
    sandbox.cut()
    for record in (sshd / "attempts").glob("*/record"):
        end_leftovers(record)
    shutil.rmtree(sshd / "attempts", ignore_errors=True)


def end_leftovers(path: Path) -> None:
    """Kill what a test left running on purpose, as a keeper would: a cut connection does not end a script."""
    if not path.is_file():  # a test made something else of it
        return
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        record = json.loads(path.read_bytes())
        for pid, started in (record["supervisor"], record["script"]):
            with contextlib.suppress(OSError):
                if identity(pid) == [pid, started]:
                    os.killpg(pid, signal.SIGKILL)


@dataclass
class FakeLease:
    """A lease that records what is asked of it, and fails or hangs where a test says so."""

    attempt: str
    access: Access
    calls: list[str]
    sandbox: str = "sandbox-under-test"
    generation: int = 1
    runtime: str = "none"
    caveat: str = ""
    term: float = 30.0
    trouble: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    token: str = ""

    @property
    def over(self) -> bool:
        """Whether it was given back or condemned."""
        return any(call.startswith(("give_back", "condemn")) for call in self.calls)

    async def _call(self, name: str, *details: str) -> None:
        if {"give_back:used", "give_back:unused"} & set(self.calls) and name in ("renew", "kill"):
            raise AssertionError(f"{name} after the lease ended")
        self.calls.append(":".join((name, *details)))
        if name in self.trouble:
            await self.trouble[name]()

    async def renew(self) -> None:
        await self._call("renew")

    async def kill(self) -> None:
        await self._call("kill")

    async def give_back(self, *, used: bool) -> None:
        await self._call("give_back", "used" if used else "unused")

    async def condemn(self, reason: str) -> None:
        await self._call("condemn", reason)


@dataclass
class FakeLeases:
    """Lends one sandbox again and again."""

    new_access: Callable[[], Access]
    trouble: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    term: float = 30.0
    leases: list[FakeLease] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    """Attempts whose lease was asked for again."""
    there: Profiles = field(default_factory=lambda: ONLY_DEFAULT)

    async def profiles(self) -> Profiles:
        if "profiles" in self.trouble:
            await self.trouble["profiles"]()
        return self.there

    async def lend(
        self, attempt: str, token: str, profile: str, trust_key: str, wait: float, patience: float
    ) -> FakeLease:
        if "lend" in self.trouble:
            await self.trouble["lend"]()
        lease = FakeLease(attempt, self.new_access(), [], term=self.term, trouble=self.trouble, token=token)
        self.leases.append(lease)
        return lease

    async def resume(self, attempt: str, token: str) -> FakeLease:
        """Return a lease that is not over again: as another handle, with the same calls and a fresh way in."""
        self.resumed.append(attempt)
        if "resume" in self.trouble:
            await self.trouble["resume"]()
        for lease in self.leases:
            if (lease.attempt, lease.token) == (attempt, token) and not lease.over:
                return replace(lease, access=self.new_access())
        raise LeaseLostError("The lease is over.")

    def handle(self, attempt: str, token: str) -> FakeHandle:
        """Return what ends a lease, if there is one."""
        return FakeHandle(self, attempt, token)

    @property
    def calls(self) -> list[str]:
        """What was asked of all leases, without the heartbeats."""
        return [call for lease in self.leases for call in lease.calls if call != "renew"]


@dataclass
class FakeHandle:
    """Ends one of the leases."""

    leases: FakeLeases
    attempt: str
    token: str

    @property
    def lease(self) -> FakeLease:
        for lease in self.leases.leases:
            if (lease.attempt, lease.token) == (self.attempt, self.token):
                return lease
        raise LeaseLostError("There never was such a lease.")

    async def kill(self) -> None:
        await self.lease.kill()

    async def give_back(self, *, used: bool) -> None:
        await self.lease.give_back(used=used)

    async def condemn(self, reason: str) -> None:
        await self.lease.condemn(reason)


async def refuse() -> None:
    """Fail as a source of leases may."""
    raise LeaseError("The keeper says no.")


async def away() -> None:
    """Fail as a source of leases does that may answer later."""
    raise LeaseUnreachableError("No keeper answers.")


async def hang() -> None:
    """Never answer."""
    await asyncio.Event().wait()


async def lose() -> None:
    """Fail as a source of leases does once the lease is gone."""
    raise LeaseLostError("The lease is gone.")


def closing(log: Log) -> Callable[[Outcome], Awaitable[None]]:
    """Return what closes a log with the outcome, and does not stand for a second one."""

    async def close(outcome: Outcome) -> None:
        assert not log.closed
        log.close(outcomes.sentence(outcome))

    return close


@dataclass
class Bench:
    """Everything that one attempt needs, on one sandbox."""

    sandbox: Sandbox
    folder: Path
    leases: FakeLeases
    cancellation: Cancellation
    settings: Settings
    notes: list[Note] = field(default_factory=list)
    logs: list[Log] = field(default_factory=list)
    markers: list[Marker] = field(default_factory=list)

    def new_log(self, limit: int = 1 << 31) -> Log:
        """Make the log of the next attempt."""
        self.logs.append(Log(self.folder / f"log-{len(self.logs)}", limit))
        return self.logs[-1]

    async def run(self, script: str | bytes, log: Log | None = None, **job: object) -> Outcome:
        """Run a script to its outcome."""
        text = script.encode() if isinstance(script, str) else script
        log = log or self.new_log()
        return await run_attempt(
            self.leases,
            Job(text, **job),  # type: ignore[arg-type]
            log,
            self.cancellation,
            settings=self.settings,
            notes=self.notes.append,
            on_start=self.mark,
            on_end=closing(log),
        )

    async def mark(self, marker: Marker) -> None:
        """Keep a marker."""
        self.markers.append(marker)

    async def resume(self, marker: Marker | None = None) -> Outcome:
        """Find the last attempt again, as a later life of the runner does, and see it to its outcome."""
        last = self.logs[-1]
        self.logs.append(Log.reopen(last.path, last.limit))
        return await resume_attempt(
            self.leases,
            marker or self.markers[-1],
            self.logs[-1],
            self.cancellation,
            settings=self.settings,
            notes=self.notes.append,
            on_end=closing(self.logs[-1]),
        )

    async def start(self, script: str, **job: object) -> asyncio.Task[Outcome]:
        """Start a script and wait until it printed `ready`."""
        task = asyncio.create_task(self.run(script, self.new_log(), **job))
        await self.until_output(b"ready")
        return task

    async def leave(self, script: str, **job: object) -> None:
        """Start a script, and have the runner go when it printed `ready`."""
        task = await self.start(script, **job)
        self.cancellation.detach()
        with pytest.raises(DetachedError):
            await task
        self.cancellation = Cancellation()

    @property
    def attempt(self) -> Path:
        """The current attempt's folder in the sandbox."""
        return Path(self.settings.attempts, self.leases.leases[-1].attempt)

    @property
    def record(self) -> dict[str, Any]:
        """The current attempt's record, as the supervisor wrote it."""
        found: dict[str, Any] = json.loads(self.attempt.joinpath("record").read_bytes())
        return found

    def count(self, action: str) -> int:
        """How often something was noted."""
        return sum(note.action == action for note in self.notes)

    @property
    def output(self) -> bytes:
        """What the last script wrote, without the runner's closing lines."""
        log = self.logs[-1]
        return log.path.read_bytes()[: log.output]

    @property
    def closing(self) -> str:
        """The runner's closing lines of the last log."""
        log = self.logs[-1]
        return log.path.read_bytes()[log.output :].decode()

    async def until_output(self, wanted: bytes, deadline: float = 20.0) -> bytes:
        """Wait until the current log holds `wanted`."""
        seen = b""
        async with asyncio.timeout(deadline):
            async for data in self.logs[-1].follow():
                seen += data
                if wanted in seen:
                    return seen
        raise AssertionError(f"The log ended without {wanted!r}: {seen[-500:]!r}")


@pytest.fixture
def anyio_backend() -> str:
    """The tests' coroutines run on asyncio."""
    return "asyncio"


@pytest.fixture
def bench(sandbox: Sandbox, tmp_path: Path) -> Bench:
    return Bench(sandbox, tmp_path, FakeLeases(sandbox.access), Cancellation(), sandbox.settings(grace=1.0))
