"""A real keeper and runner, clients that submit without a pause, and the faults that strike them."""

from __future__ import annotations

import io
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import docker
import httpx
from docker.errors import APIError, NotFound
from docker.models.containers import Container

from sandbox.state import State
from tests.crash.lab import CrashKeeper
from tests.crash.wire_cutter import Cut, WireCutter
from tests.e2e.conftest import DEADLINE
from tests.e2e.test_service import Service
from tests.faults.engine_proxy import EngineProxy, Hold
from tests.soak.plan import Fault, Strike, output, script, trust_key
from tests.soak.verdict import Seen
from tests.waiting import until

LINES: Final = (1, 100)
"""Lines of a job's output: some jobs end between two faults, others are under way."""
LOCKED: Final = 3.0
"""Seconds that the store is locked: longer than the runner waits for it."""
STALLED: Final = 3.0
DRAINED: Final = 2.0
"""Seconds that the engine answers nothing, and that nothing is started: jobs come to an end, and others wait."""
IMAGE: Final = "sandbox-soak-test:latest"
"""What the keeper's image is called, and is built under anew."""
CLIENTS: Final = 4
AHEAD: Final = 3
"""How many jobs of its own a client lets wait."""
CALM: Final = 180.0
"""Seconds for all jobs to come to their end when nothing breaks any more, and then for all sandboxes to be there: a
removal that an engine loses sight of is tried again after 150."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds."""

    files: int
    memory: int
    """In KiB."""

    @classmethod
    def of(cls, pid: int) -> Held:
        status = Path(f"/proc/{pid}/status").read_text()
        files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        return cls(files, int(status.partition("VmRSS:")[2].split()[0]))


@dataclass
class Lab:
    """One run."""

    engine: docker.DockerClient
    proxy: EngineProxy
    """Between the keeper and that engine."""
    base: str
    """What the keeper's image is built from."""
    keeper: CrashKeeper
    runner: Service
    seed: int
    names: dict[str, tuple[str, int]] = field(default_factory=dict)
    """By job id: its name and its lines."""
    ended: dict[str, Seen] = field(default_factory=dict)
    """Those that have ended, as they were then."""
    struck: list[Fault] = field(default_factory=list)
    images: list[str] = field(default_factory=list)

    def run(self, seconds: float, strikes: Iterable[Strike] = ()) -> list[Seen]:
        """Submit and strike for so long, wait for the rest, and return all jobs as they are in the end."""
        end = time.monotonic() + seconds
        clients = [threading.Thread(target=self._submit, args=(number, end)) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        begin = time.monotonic()
        for strike in strikes:
            time.sleep(max(0.0, begin + strike.at - time.monotonic()))
            self._strike(strike)
        for client in clients:
            client.join(DEADLINE)
        until("all jobs have ended", self._all_have_ended, CALM)
        return list(self.ended.values())

    def settle(self) -> None:
        """Wait until there are as many sandboxes as there should be. The runner may have one of them in advance."""

        def calm() -> bool:
            states = [sandbox.state for sandbox in self.keeper.client.listing().sandboxes]
            return len(states) == self.keeper.warm and set(states) <= {State.READY, State.LEASED}

        until("it is calm", calm, CALM)

    def _submit(self, client: int, end: float) -> None:
        """Submit jobs, at most a few ahead of the runner. An answer that is lost is asked for again."""
        chance = random.Random(self.seed * 1000 + client)
        number = len(self.names)
        ahead: list[str] = []
        while time.monotonic() < end:
            name, lines = f"job-{client}-{number}", chance.randint(*LINES)
            job = {"script": script(name, lines), "trust_key": trust_key(client, chance)}
            answer = self._ask("POST", "/v1/jobs", json=job, headers={"Idempotency-Key": name})
            if answer is not None and answer.status_code == httpx.codes.ACCEPTED:
                ahead.append(answer.json()["id"])
                self.names[ahead[-1]] = name, lines
                number += 1
            if len(ahead) == AHEAD:
                self._wait_for(ahead.pop(0), end)

    def _wait_for(self, job: str, end: float) -> None:
        while time.monotonic() < end and not self._has_ended(job):
            time.sleep(0.02)

    def _has_ended(self, job: str) -> bool:
        if job not in self.ended:
            answer = self._ask("GET", f"/v1/jobs/{job}")
            if answer is None or answer.json()["state"] != "finished":
                return False
            log = self._ask("GET", f"/v1/jobs/{job}/log")
            if log is None:
                return False
            name, lines = self.names[job]
            ended = answer.json()["outcome"]["outcome"]
            self.ended[job] = Seen(name, "finished", ended, log.content, output(name, lines))
        return True

    def _ask(self, method: str, path: str, **more: object) -> httpx.Response | None:
        """None while the runner is away, or takes no more requests for the moment."""
        try:
            answer = self.runner.api.request(method, path, **more)  # type: ignore[arg-type]
        except httpx.TransportError:
            answer = None
        if answer is None or answer.status_code in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE):
            time.sleep(0.05)
            return None
        return answer

    def _all_have_ended(self) -> bool:
        return all(self._has_ended(job) for job in self.names)

    # -- what happens ---------------------------------------------------------------------------------------------

    def _strike(self, strike: Strike) -> None:
        self.struck.append(strike.fault)
        ACTS[strike.fault](self)

    def kill_runner(self) -> None:
        self.runner.signal(signal.SIGKILL)
        self.runner.wait()
        self.runner.start()

    def upgrade_runner(self) -> None:
        self.runner.signal(signal.SIGUSR1)
        assert self.runner.wait() == 0
        self.runner.start()

    def kill_keeper(self) -> None:
        self.keeper.kill()
        self.keeper.restart()

    def remove_sandbox(self) -> None:
        for container in self._sandboxes()[:1]:
            try:
                container.remove(force=True)
            except (NotFound, APIError):  # the keeper was quicker
                return

    def wreck_sandbox(self) -> None:
        for container in self._sandboxes()[:1]:
            with suppress(NotFound, APIError, ProcessLookupError):
                for row in container.top(ps_args="-eo pid,comm")["Processes"]:
                    if row[1].startswith("sshd"):
                        os.kill(int(row[0]), signal.SIGKILL)

    def cut_ssh(self) -> None:
        for container in self._sandboxes():
            for network in container.attrs["NetworkSettings"]["Networks"].values():
                if network["IPAddress"]:
                    wire = WireCutter(network["IPAddress"])
                    wire.cut(Cut.RESET, new=False)
                    time.sleep(0.2)
                    wire.mend()

    def lock_store(self) -> None:
        holder = sqlite3.connect(self.runner.state / "runner.db", isolation_level=None)
        try:
            holder.execute("PRAGMA busy_timeout=5000")
            holder.execute("BEGIN IMMEDIATE")
            time.sleep(LOCKED)
        finally:
            holder.close()

    def stall_engine(self) -> None:
        rule = self.proxy.misbehave("*", Hold())
        time.sleep(STALLED)
        rule.release()
        self.proxy.clear()

    def drain(self) -> None:
        self._order("drain")
        time.sleep(DRAINED)
        self._order("resume")

    def refresh_image(self) -> None:
        """Have its name mean another image, as a build does."""
        lines = f"FROM {self.base}\nLABEL soak={self.seed}.{len(self.images)}\n"
        image, _ = self.engine.images.build(fileobj=io.BytesIO(lines.encode()), tag=IMAGE, rm=True)
        self.images.append(str(image.id))

    def _order(self, what: str) -> None:
        """The runner has been started a moment ago, perhaps, or its store is slow: an operator would ask again."""

        def done() -> bool:
            answer = self._ask("POST", f"/v1/{what}")
            return answer is not None and answer.is_success

        until(f"the runner takes the order to {what}", done)

    def _sandboxes(self) -> list[Container]:
        return [container for container in self.keeper.containers(self.engine) if container.status == "running"]

    # -- what is there ----------------------------------------------------------------------------------------------

    def held(self) -> list[Held]:
        """What runner and keeper hold, in this life of each."""
        assert self.runner.process is not None
        assert self.keeper.process is not None
        return [Held.of(self.runner.process.pid), Held.of(self.keeper.process.pid)]

    def on_the_newest_image(self) -> bool:
        """Whether each idle sandbox is made from what the image's name means now. The runner may hold one, too."""
        listed = self.keeper.client.listing().sandboxes
        idle = {sandbox.name for sandbox in listed if sandbox.state is State.READY}
        images = {box.attrs["ImageID"] for box in self._sandboxes() if box.attrs["Names"][0].lstrip("/") in idle}
        return images == {self.images[-1]}


ACTS: Final[Mapping[Fault, Callable[[Lab], None]]] = {
    Fault.KILL_RUNNER: Lab.kill_runner,
    Fault.KILL_KEEPER: Lab.kill_keeper,
    Fault.UPGRADE_RUNNER: Lab.upgrade_runner,
    Fault.REMOVE_SANDBOX: Lab.remove_sandbox,
    Fault.WRECK_SANDBOX: Lab.wreck_sandbox,
    Fault.CUT_SSH: Lab.cut_ssh,
    Fault.LOCK_STORE: Lab.lock_store,
    Fault.STALL_ENGINE: Lab.stall_engine,
    Fault.DRAIN: Lab.drain,
    Fault.REFRESH_IMAGE: Lab.refresh_image,
}
