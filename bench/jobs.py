"""The service from end to end: trivial jobs per second by several clients, how jobs that wait grow in number with the
sandboxes, a large log followed over HTTP, and the memory of `runner serve`, at rest and with 50 followers of one log.

    python -m bench.jobs [JOBS]

The limit is what the logins leave: each job has two of its own, the runner's, which is kept for no other job, and the
proof of life after it. OpenSSH's client makes as many in the same run, and nothing else; it is the peer of the log too.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bench.access import WHERE, openssh
from bench.recreate import DEADLINE, until
from bench.stream import SANDBOXES, keeper
from runner.execution.lease import new_token
from runner.job import new_attempt_id
from runner.keeper_leases import KeeperLease, KeeperLeases
from sandbox.places import SOCKET_IN_RUN_FOLDER
from tests.web import answers

CLIENTS, FOLLOWERS = 4, 50
LOGINS, LOGINS_OF_A_JOB = 100, 2
WAITING, WAITING_JOBS = "sleep 0.5", 24
"""A job that leaves the processor to others, as most jobs do for most of their time; and how many of them."""
GOAL = 60
"""The goal, in jobs per second on two cores."""
MEMORY_GOAL = 120
"""The goal for the memory in MiB, with all followers."""
LOG_MB, LOG_ROUNDS = 500, 5
LARGE_LOG = f"head -c {LOG_MB}000000 /dev/zero"
CHATTY = "while :; do seq 1000; sleep 0.1; done"
"""A script that writes all the time, so that every follower has something to receive."""


class Runner:
    """A running service, and its API."""

    def __init__(self, state: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        token = (state / "token").read_text().strip()
        self.api = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {token}"},
            verify=False,
            timeout=DEADLINE,
            limits=httpx.Limits(max_connections=FOLLOWERS + CLIENTS),
        )

    @property
    def memory(self) -> float:
        """Return the MiB of its own memory, and its part of the shared memory."""
        lines = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024

    def submit(self, script: str) -> str:
        answer = self.api.post("/v1/jobs", json={"script": script})
        answer.raise_for_status()
        return str(answer.json()["id"])

    def finish(self, job: str) -> None:
        """Wait until a job has ended, as `runner submit` does: follow its log to the end."""
        with self.api.stream("GET", f"/v1/jobs/{job}/log", params={"follow": "true"}) as log:
            for _ in log.iter_raw():
                pass
        view: dict[str, Any] = self.api.get(f"/v1/jobs/{job}").json()
        assert view["state"] == "finished", view

    def read_log(self, job: str) -> int:
        """Return the size of a log and its header. Reading costs next to nothing here, as it does with OpenSSH."""
        url = self.api.base_url
        buffer, size = bytearray(1024 * 1024), 0
        with socket.create_connection((url.host, url.port), timeout=DEADLINE) as connection:
            asked = f"GET /v1/jobs/{job}/log?follow=true HTTP/1.0\r\nAuthorization: {self.api.headers['Authorization']}"
            connection.sendall(f"{asked}\r\n\r\n".encode())
            while count := connection.recv_into(buffer):
                size += count
        return size


@contextmanager
def runner(folder: Path, slots: int = SANDBOXES) -> Iterator[Runner]:
    """Run a service and a keeper for it, with so many slots; remove all their data at the end."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("runner")), "serve", "--listen", f"127.0.0.1:{port}"]
    command += ["--keeper", f"{folder}/run/{SOCKET_IN_RUN_FOLDER}", "--slots", str(slots)]
    with tempfile.TemporaryDirectory(dir=folder) as state, (folder / "runner.log").open("ab") as log:
        process = subprocess.Popen([*command, "--state", state], stderr=log)
        try:
            until(lambda: answers(f"http://127.0.0.1:{port}/ready"))
            yield Runner(Path(state), port, process)
        finally:
            for _ in range(2):
                process.send_signal(signal.SIGTERM)
            process.wait(DEADLINE)


def throughput(service: Runner, jobs: int, script: str = "true") -> float:
    """Return the jobs per second, from the first submission to the last end."""
    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        ids = list(clients.map(lambda _: service.submit(script), range(jobs)))
        list(clients.map(service.finish, ids))
    return jobs / (time.monotonic() - began)


def growth(folder: Path) -> float:
    """Return by which factor all sandboxes do more waiting jobs than one sandbox does."""
    rates = []
    for slots in (1, SANDBOXES):
        with runner(folder, slots) as service:
            rates.append(throughput(service, WAITING_JOBS, WAITING))
    return rates[1] / rates[0]


def logins(ssh: list[str]) -> float:
    """Return how many logins per second the same number of OpenSSH clients make."""
    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(lambda _: subprocess.run([*ssh, "true"], check=True, timeout=DEADLINE), range(LOGINS)))
    return LOGINS / (time.monotonic() - began)


def log_by_ssh(folder: Path) -> float:
    """Return MB/s of a large output into a file, as a job's log is kept, from the login to its end."""
    with peer(folder) as ssh, tempfile.TemporaryFile(dir=folder) as kept:
        began = time.monotonic()
        subprocess.run([*ssh, LARGE_LOG], stdout=kept, check=True, timeout=DEADLINE)
        return LOG_MB / (time.monotonic() - began)


def log_by_http(folder: Path) -> float:
    """Return MB/s of the same output as a job's log, from the submission to its end."""
    with runner(folder) as service:
        began = time.monotonic()
        job = service.submit(LARGE_LOG)
        assert service.read_log(job) > LOG_MB * 1_000_000
        return LOG_MB / (time.monotonic() - began)


@contextmanager
def peer(folder: Path) -> Iterator[list[str]]:
    """Yield the command of OpenSSH's client for a sandbox of the keeper, for less than a lease's term."""
    lease = asyncio.run(lend(folder))
    try:
        yield ssh_to(folder, lease)
    finally:
        asyncio.run(lease.give_back(used=True))


async def lend(folder: Path) -> KeeperLease:
    leases = KeeperLeases(folder / "run" / SOCKET_IN_RUN_FOLDER)
    return await leases.lend(new_attempt_id(), new_token(), "default", "bench", DEADLINE, DEADLINE)


def ssh_to(folder: Path, lease: KeeperLease) -> list[str]:
    """Return the command that logs in to the sandbox of a lease."""
    access = lease.access
    with access.socket as connection:
        host, port = connection.getpeername()[:2]
    key = folder / "client"
    key.touch(mode=0o600)
    key.write_text(access.client_key)
    return [*WHERE, *openssh(folder, port, access.user, access.host_key, key), host]


def followed(service: Runner) -> float:
    """Return the memory in MiB while so many clients follow one log."""
    job = service.submit(CHATTY)
    reached = threading.Semaphore(0)
    leave = threading.Event()

    def follow() -> None:
        with service.api.stream("GET", f"/v1/jobs/{job}/log", params={"follow": "true"}) as log:
            for number, _ in enumerate(log.iter_raw()):
                if number == 10:
                    reached.release()
                if leave.is_set():
                    return

    followers = [threading.Thread(target=follow) for _ in range(FOLLOWERS)]
    for follower in followers:
        follower.start()
    for _ in followers:
        assert reached.acquire(timeout=DEADLINE)
    memory = service.memory
    leave.set()
    for follower in followers:
        follower.join(DEADLINE)
    service.api.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    service.finish(job)
    return memory


def report(jobs: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as name, keeper(folder := Path(name)):
        grown = growth(folder)
        # Remove each log and its copy before the next round: the cost of a page of memory depends on its earlier use.
        logs = [(log_by_http(folder), log_by_ssh(folder)) for _ in range(LOG_ROUNDS)]
        numbers = {"growth": round(grown, 2), **_of_logs(logs), **_measured(folder, jobs)}
    print(json.dumps({"bench": "jobs", "sandboxes": SANDBOXES, "clients": CLIENTS, "jobs": jobs, **numbers}))
    print(
        f"{jobs} trivial jobs of {CLIENTS} clients on {SANDBOXES} sandboxes: {numbers['jobs_per_s']} a second, "
        f"{numbers['ratio']} of the {numbers['limit_per_s']} that two logins for each leave; the goal is {GOAL}. "
        f"Of jobs that wait, {SANDBOXES} sandboxes do {numbers['growth']} times as many as one. "
        f"A log came over HTTP at {numbers['log_mb_s']} MB/s, {numbers['log_ratio']} of OpenSSH's "
        f"{numbers['openssh_log_mb_s']}; the goal is 1. "
        f"The service takes {numbers['rest_mib']} MiB at rest, {numbers['followers_mib']} with {FOLLOWERS} followers; "
        f"the goal is {MEMORY_GOAL}."
    )


def _of_logs(rounds: list[tuple[float, float]]) -> dict[str, float]:
    http, openssh = map(statistics.median, zip(*rounds, strict=True))
    return {"log_mb_s": round(http), "openssh_log_mb_s": round(openssh), "log_ratio": round(http / openssh, 2)}


def _measured(folder: Path, jobs: int) -> dict[str, float]:
    with runner(folder) as service:
        rest = service.memory
        rate = throughput(service, jobs)
        with peer(folder) as ssh:
            limit = logins(ssh) / LOGINS_OF_A_JOB
        return {
            "jobs_per_s": round(rate, 1),
            "limit_per_s": round(limit, 1),
            "ratio": round(rate / limit, 2),
            "rest_mib": round(rest),
            "followers_mib": round(followed(service)),
            "after_mib": round(service.memory),
        }


if __name__ == "__main__":
    report(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
