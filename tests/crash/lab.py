"""A keeper and a runner that a test stops, kills and starts again, and the parts around them that it breaks."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import httpx
from docker.errors import NotFound
from docker.models.containers import Container
from httpx import codes

from runner.store.states import JobState
from sandbox.keeper import protocol
from sandbox.template import LABEL_INSTALLATION
from tests import programs
from tests.crash import jumping_keeper, stopped_runner
from tests.crash.matrix import Point
from tests.crash.starts import Starts
from tests.crash.stopped_runner import CLOCK, STOP_AT, STOPPED_AT
from tests.crash.wire_cutter import WireCutter
from tests.e2e.conftest import NETNS, Keeper
from tests.e2e.test_service import Service
from tests.programs import Program
from tests.waiting import until

DISK = 128 * 1024 * 1024
"""Bytes of the file system that holds a runner's state."""
BALLAST = "ballast"


@dataclass
class CrashKeeper(Keeper):
    """A keeper that can be killed and started again on the same state, with a clock that a test sets."""

    def begin(self, *options: str) -> Program:
        with (self.folder / "keeper.log").open("ab") as log:
            return programs.start(
                jumping_keeper.main, str(self.folder), *self.words, *options,
                stderr=log, environment=self.environment, netns=self.netns or NETNS,
            )  # fmt: skip

    @property
    def only(self) -> protocol.SandboxReport:
        """Its one sandbox."""
        [sandbox] = self.client.listing().sandboxes
        return sandbox

    def containers(self, client: docker.DockerClient) -> list[Container]:
        """Its sandboxes, as the engine lists them."""
        installation = (self.folder / "home" / "installation").read_text().strip()
        label = f"{LABEL_INSTALLATION}={installation}"
        return client.containers.list(filters={"label": label}, sparse=True)


@dataclass
class CrashRunner(Service):
    """`runner serve` that stops at a point, with a clock that a test sets."""

    def begin(self) -> Program:
        with (self.folder / "service.log").open("ab") as log:
            return programs.start(stopped_runner.main, str(self.folder), *self.words, stderr=log)

    @property
    def folder(self) -> Path:
        return self.state.parent

    def stop_at(self, point: Point) -> None:
        """Have it stop when the next job comes to this point."""
        (self.folder / STOP_AT).write_text(point)

    def wait_until_stopped(self) -> None:
        until("the runner came to the point", (self.folder / STOPPED_AT).exists)
        until("the runner has stopped", self._is_stopped)

    def stop(self) -> None:
        """Stop it wherever it is."""
        self.signal(signal.SIGSTOP)
        until("the runner has stopped", self._is_stopped)

    def cont(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def says(self, words: str) -> bool:
        """Whether it has said so in its log."""
        return words in (self.folder / "service.log").read_text()

    def finished(self, job: str) -> bool:
        return bool(self.show(job)["state"] == JobState.FINISHED)

    def _is_stopped(self) -> bool:
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@dataclass
class Lab:
    """One cell of the matrix."""

    engine: docker.DockerClient
    keeper: CrashKeeper
    runner: CrashRunner
    starts: Starts = field(default_factory=Starts)
    job: str = ""

    def __post_init__(self) -> None:
        self.container = self.engine.containers.get(self.keeper.only.name)
        """The sandbox that is there at the beginning."""
        [network] = self.container.attrs["NetworkSettings"]["Networks"].values()
        self.wire = WireCutter(network["IPAddress"])
        self._watched: set[str | None] = set()
        """The containers in which starts are counted."""
        self.watch()

    def watch(self) -> None:
        """Count starts in every sandbox that there is."""
        for container in self.keeper.containers(self.engine):
            with suppress(NotFound):  # it was removed just now
                if container.id not in self._watched and (pid := self._pid(container)):
                    self.starts.watch(pid)
                    self._watched.add(container.id)

    def _pid(self, container: Container) -> int:
        """Of its first process; 0 when it has none."""
        container.reload()
        return int(container.attrs["State"]["Pid"])

    def record(self) -> dict[str, Any]:
        """What the launcher has written down of the job, as it is on the host's side."""
        [attempt] = Path(f"/proc/{self.container.attrs['State']['Pid']}/root/var/lib/attempts").iterdir()
        record: dict[str, Any] = json.loads((attempt / "record").read_bytes())
        return record

    def set_clocks(self, seconds: float) -> None:
        """Have the clocks of runner and keeper go wrong by so much from now on."""
        for folder in (self.keeper.folder, self.runner.folder):
            (folder / CLOCK).write_text(str(seconds))

    def submit(self, script: str) -> None:
        """Submit a job as a client does that may not be answered: again and again, and it is one job."""
        self._submitting = threading.Thread(target=self._submit, args=(script,), daemon=True)
        self._submitting.start()

    def _submit(self, script: str) -> None:
        headers = {"Authorization": self.runner.api.headers["Authorization"], "Idempotency-Key": "the-job"}
        with httpx.Client(base_url=self.runner.url, headers=headers, timeout=5, verify=False) as client:
            while not self.job:
                with suppress(httpx.TransportError):
                    answer = client.post("/v1/jobs", json={"script": script})
                    if answer.status_code == codes.ACCEPTED:
                        self.job = answer.json()["id"]
                        return
                time.sleep(0.05)  # it may be dead, and its next life needs the processor

    def finished(self) -> bool:
        """Whether the job is known, and over. Counts its starts meanwhile: it may run in a new sandbox."""
        self.watch()
        return bool(self.job) and self.runner.finished(self.job)

    def fill_disk(self, folder: str = "") -> None:
        """Leave not a byte on the state's disk, or on that of one of its folders."""
        with (self.runner.state / folder / BALLAST).open("wb") as file:
            room = os.fstatvfs(file.fileno())
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize)

    def make_room(self) -> None:
        for folder in ("", "logs"):
            (self.runner.state / folder / BALLAST).unlink(missing_ok=True)

    def lock_store(self) -> None:
        """Hold the database as another program may, until `unlock_store`."""
        self._holder = sqlite3.connect(self.runner.state / "runner.db", isolation_level=None, check_same_thread=False)
        self._holder.execute("BEGIN IMMEDIATE")

    def unlock_store(self) -> None:
        self._holder.close()

    def close(self) -> None:
        self.starts.close()
        self.wire.mend()
        for folder in (self.keeper.folder, self.runner.folder):
            (folder / CLOCK).unlink(missing_ok=True)
        if self.runner.process is not None:
            self.runner.api.close()
            if self.runner.process.poll() is None:
                self.runner.kill()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own on a folder."""
    folder.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "crash-test", folder], check=True, timeout=10)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True, timeout=10)
