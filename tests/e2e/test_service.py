"""`runner serve`: the HTTP API, drain and stop."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox.pool import LEASE_TERM
from sandbox.state import State
from tests import programs
from tests.e2e.conftest import DEADLINE, Keeper
from tests.programs import PIPE, Program
from tests.waiting import until
from tests.web import answers


@dataclass
class Service:
    """One `runner serve` process."""

    keeper: Keeper
    state: Path
    port: int
    process: Program | None = field(default=None, repr=False)

    @property
    def words(self) -> list[str]:
        """The command's arguments."""
        places = ["--keeper", str(self.keeper.socket), "--state", str(self.state)]
        return ["serve", *places, "--listen", f"127.0.0.1:{self.port}"]

    def start(self) -> None:
        self.process = self.begin()
        until("the service answers", self._answers)

    def begin(self) -> Program:
        with (self.state.parent / "service.log").open("ab") as log:
            return programs.start(programs.runner, *self.words, stderr=log)

    def _answers(self) -> bool:
        return answers(f"{self.url}/live")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @cached_property
    def api(self) -> httpx.Client:
        token = (self.state / "token").read_text().strip()
        bearer = {"Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=self.url, headers=bearer, timeout=DEADLINE, verify=False)

    def submit(self, script: str, **more: object) -> str:
        answer = self.api.post("/v1/jobs", json={"script": script, **more})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def log(self, job: str) -> str:
        """The whole log, followed to its end."""
        return self.api.get(f"/v1/jobs/{job}/log", params={"follow": True}).text

    def read_log(self, job: str, seen: bytearray, goal: int) -> None:
        """Follow the log from where `seen` stands until that has `goal` bytes, or to the log's end."""
        where = {"follow": "true", "offset": str(len(seen))}
        plain = {"Accept-Encoding": "identity"}  # offsets count what the script wrote
        with self.api.stream("GET", f"/v1/jobs/{job}/log", params=where, headers=plain) as log:
            for data in log.iter_raw():
                seen += data
                if len(seen) >= goal:
                    return

    def show(self, job: str) -> dict[str, Any]:
        view: dict[str, Any] = self.api.get(f"/v1/jobs/{job}").json()
        return view

    def outcome(self, job: str) -> dict[str, Any]:
        until(f"job {job} is finished", lambda: self.show(job)["state"] == "finished", DEADLINE)
        outcome: dict[str, Any] = self.show(job)["outcome"]
        return outcome

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process is not None
        return self.process.wait(DEADLINE)


@pytest.fixture
def new_service(keeper: Keeper, tmp_path: Path) -> Iterator[Callable[[], Service]]:
    made: list[Service] = []

    def new() -> Service:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        service = Service(keeper, tmp_path / "state", port)
        service.start()
        made.append(service)
        return service

    yield new
    for service in made:
        service.api.close()
        assert service.process is not None
        if service.process.poll() is None:
            service.signal(signal.SIGQUIT)
            service.wait()


def test_submit_log_and_outcome(new_service: Callable[[], Service]) -> None:
    service = new_service()
    job = service.submit("echo one; echo two; exit 3", environment={"A": "b"})
    assert service.log(job) == "one\ntwo\nrunner: The script failed with exit code 3.\n"
    outcome = service.outcome(job)
    assert (outcome["outcome"], outcome["exit_code"]) == ("script_failed", 3)
    rest = service.api.get(f"/v1/jobs/{job}/log", params={"offset": 4}).text
    assert rest.startswith("two\n")


def test_more_jobs_than_slots_all_run(new_service: Callable[[], Service]) -> None:
    service = new_service()
    jobs = [service.submit(f"echo job {number}") for number in range(8)]
    for number, job in enumerate(jobs):
        assert service.log(job).startswith(f"job {number}\n")
        assert service.outcome(job)["outcome"] == "succeeded"


def test_a_sandbox_is_prepared_in_advance_and_the_other_left_to_others(new_service: Callable[[], Service]) -> None:
    service = new_service()
    keeper = service.keeper

    def one_each() -> bool:
        return sorted(sandbox.state for sandbox in keeper.client.listing().sandboxes) == [State.LEASED, State.READY]

    until("one sandbox is prepared", one_each)
    service.outcome(service.submit("true"))
    until("one sandbox is prepared again", one_each)


def test_cancel_while_running_and_while_queued(new_service: Callable[[], Service]) -> None:
    service = new_service()
    running = [service.submit("echo up; sleep 1000") for _ in range(2)]
    queued = service.submit("echo never")
    for job in running:
        with service.api.stream("GET", f"/v1/jobs/{job}/log", params={"follow": True}) as log:
            assert next(log.iter_lines()) == "up"
    for job in (queued, *running):
        assert service.api.post(f"/v1/jobs/{job}/cancel").status_code == 202
    for job in (*running, queued):
        assert service.outcome(job)["outcome"] == "cancelled"
    assert "never" not in service.log(queued)


@pytest.mark.parametrize("stopped_before", [False, True])
def test_term_drains_and_the_log_can_be_followed_to_its_end(
    new_service: Callable[[], Service], stopped_before: bool
) -> None:
    """The trap: a service that was told by command to stop took its first TERM for a second one."""
    service = new_service()
    job = service.submit("echo up; until [ -e /tmp/go ]; do sleep 0.05; done & wait $!; echo end", timeout=3)
    with service.api.stream("GET", f"/v1/jobs/{job}/log", params={"follow": True}) as log:
        lines = log.iter_lines()
        assert next(lines) == "up"
        if stopped_before:
            service.api.post("/v1/stop", json={}).raise_for_status()
        service.signal(signal.SIGTERM)
        until("it drains", lambda: answers(f"{service.url}/ready", 503))
        refused = service.api.post("/v1/jobs", json={"script": "true"})
        assert refused.status_code == 503
        assert "takes no more jobs" in refused.json()["detail"]
        assert list(lines)[-1] == "runner: The script ran into the job timeout and was ended."
    assert service.wait() == 0


def test_a_second_term_ends_the_jobs(new_service: Callable[[], Service]) -> None:
    service = new_service()
    job = service.submit("echo up; sleep 1000")
    with service.api.stream("GET", f"/v1/jobs/{job}/log", params={"follow": True}) as log:
        lines = log.iter_lines()
        assert next(lines) == "up"
        service.signal(signal.SIGTERM)
        until("it drains", lambda: answers(f"{service.url}/ready", 503))
        service.signal(signal.SIGTERM)
        assert list(lines) == ["runner: The runner was stopped: it was told twice to stop."]
    assert service.wait() == 0


LARGE = """#!/usr/bin/env python3
import hashlib, sys, time
for number in range(50):
    sys.stdout.buffer.write(hashlib.sha256(b"%d" % number).digest() * 32768)
    sys.stdout.buffer.flush()
    time.sleep(0.2)
print()
sys.exit(7)
"""
"""Prints 50 MiB, in pieces that differ, over a few seconds."""


def large() -> bytes:
    return b"".join(hashlib.sha256(b"%d" % number).digest() * 32768 for number in range(50))


@pytest.mark.timeout(300)
def test_a_large_log_is_exact_over_crashes_and_an_upgrade(new_service: Callable[[], Service]) -> None:
    service = new_service()
    job = service.submit(LARGE)
    seen = bytearray()
    for number, goal in ((signal.SIGKILL, 5), (signal.SIGUSR1, 15), (signal.SIGKILL, 25)):
        service.read_log(job, seen, goal * 1024 * 1024)
        service.signal(number)
        assert service.wait() == (0 if number is signal.SIGUSR1 else -signal.SIGKILL)
        service.start()
    service.read_log(job, seen, 1 << 40)
    whole = large() + b"\nrunner: The script failed with exit code 7.\n"
    assert hashlib.sha256(seen).hexdigest() == hashlib.sha256(whole).hexdigest()
    assert service.outcome(job)["exit_code"] == 7
    again = service.api.get(f"/v1/jobs/{job}/log").content
    assert hashlib.sha256(again).hexdigest() == hashlib.sha256(whole).hexdigest()


def test_after_a_crash_finished_running_and_waiting_jobs_are_what_they_were(new_service: Callable[[], Service]) -> None:
    service = new_service()
    finished = service.submit("echo kept")
    service.outcome(finished)
    running = [service.submit(f"echo up; sleep {seconds}; echo end") for seconds in (2, 1000)]
    waiting = service.submit("echo ran")
    for job in running:
        service.read_log(job, bytearray(), len("up\n"))
    service.signal(signal.SIGKILL)
    service.wait()
    service.start()
    assert service.log(finished) == "kept\nrunner: The script succeeded.\n"
    assert service.log(running[0]) == "up\nend\nrunner: The script succeeded.\n"
    assert service.log(waiting) == "ran\nrunner: The script succeeded.\n"
    assert service.api.post(f"/v1/jobs/{running[1]}/cancel").status_code == 202
    assert service.outcome(running[1])["outcome"] == "cancelled"


def test_a_job_that_closed_its_sandbox_is_ended_by_a_service_that_was_restarted(
    new_service: Callable[[], Service],
) -> None:
    """The trap: the way in was asked for before anything else, for an hour, and each time it kept the lease."""
    service = new_service()
    job = service.submit("sudo iptables -P INPUT DROP && echo up; sleep 1000")
    service.read_log(job, bytearray(), len("up\n"))
    (lent,) = (one["attempt"] for one in service.api.get("/v1/sandboxes").json() if one["job"] == job)
    service.signal(signal.SIGKILL)
    service.wait()
    service.start()
    assert service.api.post(f"/v1/jobs/{job}/cancel").status_code == 202
    assert service.outcome(job)["outcome"] == "cancelled"
    until("its lease is over", lambda: lent not in {one.attempt for one in service.keeper.client.listing().sandboxes})


def test_a_sandbox_that_a_killed_service_held_in_advance_is_returned(new_service: Callable[[], Service]) -> None:
    """The trap: it stays leased until the end of its term, and of its patience, which is a day."""
    service = new_service()

    def attempts() -> set[str | None]:
        return {sandbox.attempt for sandbox in service.keeper.client.listing().sandboxes}

    until("one is held", lambda: attempts() != {None})
    held = attempts() - {None}
    service.signal(signal.SIGKILL)
    service.wait()
    service.start()
    until("it is returned", lambda: not held & attempts(), LEASE_TERM * 0.7)


def test_a_second_service_on_the_same_folder_is_refused(new_service: Callable[[], Service]) -> None:
    service = new_service()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = Service(service.keeper, service.state, port).words
    refused = programs.run(programs.runner, *words, timeout=DEADLINE)
    assert refused.returncode == 69
    assert "Another runner uses the state folder" in refused.stderr


@pytest.mark.parametrize(
    ("body", "status", "cause"),
    [
        (b"{", 422, "the body: Invalid JSON"),
        (b"{}", 422, "Give a script with at least one command, or steps"),
        (b'{"script": ""}', 422, "The script is empty"),
        (b'{"script": "true", "timeout": 0}', 422, "timeout: must be greater than 0"),
        (b'{"script": "true", "scrpt": 1}', 422, "scrpt: there is no such field"),
        (b'{"script": "true", "environment": {"A": "x\\u0000y"}}', 422, "The variable A has a NUL byte"),
        (b'{"script": "\\ud800"}', 422, "the body"),
        (b"\xff\xfe", 422, "the body"),
    ],
)
def test_bad_requests_name_what_is_wrong(
    new_service: Callable[[], Service], body: bytes, status: int, cause: str
) -> None:
    answer = new_service().api.post("/v1/jobs", content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert cause in answer.json()["detail"]


def test_strangers_are_kept_out(new_service: Callable[[], Service]) -> None:
    service = new_service()
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer \u00fc".encode("latin-1")}):
        answer = httpx.post(f"{service.url}/v1/jobs", json={"script": "true"}, headers=headers, timeout=DEADLINE)  # type: ignore[arg-type]
        assert answer.status_code == 401, answer.text
    assert service.api.get("/v1/jobs/0123").status_code == 404
    assert (service.state / "token").stat().st_mode & 0o777 == 0o600


def test_ping_tells_a_health_check(new_service: Callable[[], Service]) -> None:
    service = new_service()

    def codes() -> set[int]:
        """What comes of it with and without an option."""
        return {
            programs.run(programs.runner, "ping", "--url", service.url).returncode,
            command(service, "ping").returncode,
            command(service, "ping", "--live").returncode,
        }

    assert codes() == {0}
    service.signal(signal.SIGTERM)
    service.wait()
    assert codes() == {69}


def test_the_sandboxes_are_told_with_the_jobs_that_have_them(new_service: Callable[[], Service]) -> None:
    service = new_service()
    job = service.submit("echo on; sleep 600", trust_key="team-a")
    seen = bytearray()
    service.read_log(job, seen, 3)
    [mine] = [one for one in service.api.get("/v1/sandboxes").json() if one["job"] == job]
    assert (mine["state"], mine["profile"], mine["trust_key"], mine["reason"]) == ("leased", "default", "team-a", None)
    shown = command(service, "sandboxes")
    [line] = [line.split() for line in shown.stdout.splitlines() if job in line]
    assert (line[:3], line[-2:]) == ([mine["name"], "default", "leased"], ["team-a", job])
    told = json.loads(command(service, "sandboxes", "--json").stdout)
    assert [one["job"] for one in told if one["name"] == mine["name"]] == [job]
    service.api.post(f"/v1/jobs/{job}/cancel")
    assert service.outcome(job)["outcome"] == "cancelled"


def command(service: Service, *words: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `runner`, as a user of the service does."""
    return programs.run(
        programs.runner, *words, given=text, environment={**known(service), **environment}, timeout=DEADLINE
    )


def known(service: Service) -> dict[str, str]:
    """The environment of a user of the service."""
    return {**os.environ, "RUNNER_URL": service.url, "RUNNER_TOKEN_FILE": str(service.state / "token")}


def test_the_commands_of_a_user(new_service: Callable[[], Service]) -> None:
    service = new_service()
    job = "script: |\n  printf '\\033[31mred\\033[0m %s\\n' $TOKEN\n  exit 7\ntrust_key: team\n"
    done = command(service, "submit", "--wait", "--secret", "TOKEN", "-", text=job, TOKEN="t0p-secret")
    log = "\033[31mred\033[0m [masked]\nrunner: The script failed with exit code 7.\n"
    assert (done.stdout, done.returncode) == (log, 7), done.stderr
    [listed] = json.loads(command(service, "ls", "--json").stdout)
    assert (listed["state"], listed["trust_key"], listed["outcome"]["code"]) == ("finished", "team", 7)
    again = command(service, "logs", "-f", listed["id"], "--offset", "4")
    assert (again.stdout, again.returncode) == (log[4:], 7)

    waiting = command(service, "submit", "-", text='{"script": "echo up; sleep 1000"}').stdout.strip()
    service.read_log(waiting, bytearray(), len("up\n"))
    assert "1 of 2 slots are taken, 0 jobs wait" in command(service, "status").stdout
    assert command(service, "cancel", waiting).returncode == 0
    assert service.outcome(waiting)["outcome"] == "cancelled"
    assert "\ncancelled (exit code 130): The script was cancelled by" in command(service, "show", waiting).stdout


def test_commands_say_what_is_wrong(new_service: Callable[[], Service]) -> None:
    service = new_service()
    for words, code, cause in (
        (["show", "0123"], 64, "there is no job whose id begins like that"),
        (["show", "0" * 32], 69, "There is no job of that id"),
        (["show", "../x"], 64, "is no id"),
        (["submit", "-"], 64, "standard input:1:1: The script is empty"),
    ):
        refused = command(service, *words, text="args: []")
        assert (refused.returncode, refused.stdout) == (code, "")
        assert cause in refused.stderr
    assert "no runner" in command(service, "ls", RUNNER_URL="http://127.0.0.1:9").stderr.lower()
    assert "is unknown or was revoked" in command(service, "ls", RUNNER_TOKEN="wrong").stderr


def following(service: Service, job: str) -> Program:
    """`runner logs -f`, in the background."""
    return programs.start(programs.runner, "logs", "-f", job, stdout=PIPE, environment=known(service))


def test_a_follower_sees_every_line_over_an_upgrade_and_a_crash_of_the_service(
    new_service: Callable[[], Service],
) -> None:
    """In the middle of the log each time: a part of it was sent, and the rest is printed while nobody is there."""
    service = new_service()
    job = service.submit("seq 1000; sleep 1; seq 1001 30000; sleep 3; seq 30001 40000")
    follower = following(service, job)
    assert follower.stdout
    lines: list[str] = []
    for number, seen in ((signal.SIGUSR1, 500), (signal.SIGKILL, 20_000)):
        while len(lines) < seen:
            lines.append(follower.stdout.readline())
        service.signal(number)
        service.wait()
        service.start()
    lines += follower.stdout.readlines()
    numbers = [f"{number}\n" for number in range(1, 40_001)]
    assert lines == [*numbers, "runner: The script succeeded.\n"]
    assert follower.wait(DEADLINE) == 0
    follower.stdout.close()


def test_the_commands_of_an_operator(new_service: Callable[[], Service]) -> None:
    service = new_service()
    running = service.submit("echo up; sleep 1000")
    service.read_log(running, bytearray(), len("up\n"))
    assert "is draining by the operator since" in command(service, "drain").stdout
    held = service.submit("echo late")
    refused = command(service, "drain", "--wait", "--timeout", "0")
    assert (refused.returncode, "Jobs still run after 0 s" in refused.stderr) == (69, True)
    service.api.post(f"/v1/jobs/{running}/cancel")
    idle = json.loads(command(service, "drain", "--wait", "--json").stdout)
    assert (idle["mode"], idle["running"], idle["waiting"]) == ("draining", 0, 1)
    assert service.show(held)["state"] == "queued"
    assert "is working: " in command(service, "resume").stdout
    assert service.log(held).startswith("late\n")
    last = service.submit("echo up; sleep 1000")
    service.read_log(last, bytearray(), len("up\n"))
    assert "is stopping: 1 of 2 slots are taken" in command(service, "stop").stdout
    follower = following(service, last)
    assert "is aborting" in command(service, "stop", "--force").stdout
    assert service.wait() == 0
    service.start()
    log = follower.communicate(timeout=DEADLINE)[0]
    assert log == "up\nrunner: The runner was stopped: it was told to stop at once by the operator.\n"


def test_a_submission_is_taken_once_however_often_it_is_sent(new_service: Callable[[], Service]) -> None:
    service = new_service()
    headers = {"Idempotency-Key": "build-17"}
    first, second = [service.api.post("/v1/jobs", json={"script": "true"}, headers=headers) for _ in range(2)]
    assert first.json()["id"] == second.json()["id"]
    other = service.api.post("/v1/jobs", json={"script": "false"}, headers=headers)
    assert (other.status_code, other.headers["content-type"]) == (409, "application/problem+json")
    assert "used for another job" in other.json()["detail"]
    service.submit("true")
    pages = [service.api.get("/v1/jobs", params={"limit": 1}).json()]
    pages.append(service.api.get("/v1/jobs", params={"limit": 1, "before": pages[0]["next"]}).json())
    assert [page["jobs"][0]["id"] for page in pages][1] == first.json()["id"]
    assert service.api.get("/v1/jobs", params={"limit": 1, "before": pages[1]["next"]}).json() == {
        "jobs": [],
        "next": None,
    }
