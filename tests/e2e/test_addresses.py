"""`runner` with sandboxes that someone else started: no keeper, and no Docker for the runner."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests import programs
from tests.e2e.conftest import DEADLINE
from tests.foreign import Foreign, Foreigners
from tests.programs import PIPE
from tests.waiting import until
from tests.web import answers

NO_DOCKER = {name: value for name, value in os.environ.items() if not name.startswith(("DOCKER", "SANDBOX"))}
Pair = tuple[Foreign, Foreign]


def runner(*arguments: str, script: str = "") -> subprocess.CompletedProcess[str]:
    return programs.run(programs.runner, *arguments, given=script, environment=NO_DOCKER, timeout=DEADLINE)


def test_a_script_runs_as_in_a_keepers_sandbox(new_foreign: Foreigners, foreign: Pair, tmp_path: Path) -> None:
    options = new_foreign.options(tmp_path / "state", foreign[0])
    ran = runner("run", *options, "-", "--", "there", script='echo "hello $1 in ${PWD##*/}"; exit 7')
    assert (ran.returncode, ran.stdout) == (7, "hello there in workspace\n")
    assert ran.stderr.count("it cannot be recreated, nor looked at or ended from outside") == 1
    lost = runner("run", "--json", *options, "-", script="sudo rm /run/sandbox/authorized_keys; kill -9 $$")
    assert json.loads(lost.stdout)["outcome"] == "killed"
    assert "condemned and not lent again" in lost.stderr
    refused = runner("run", *options, "-", script="true")
    assert refused.returncode == 69
    assert "was condemned" in refused.stderr
    foreign[0].execute("install -m 644 /dev/null /run/sandbox/authorized_keys")
    foreign[0].execute(f"echo '{new_foreign.key.public}' >/run/sandbox/authorized_keys")


def test_ctrl_c_ends_what_the_script_started(new_foreign: Foreigners, foreign: Pair, tmp_path: Path) -> None:
    options = new_foreign.options(tmp_path / "state", foreign[0])
    process = programs.start(
        programs.runner, "run", *options, "-", environment=NO_DOCKER, stdin=PIPE, stdout=PIPE
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    process.stdin.write("(setsid sleep 66666 &); sudo setsid sleep 77777 & echo started; wait")
    process.stdin.close()
    process.stdin = None
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert not foreign[0].runs("sleep 66666")
    assert not foreign[0].runs("sleep 77777")


@pytest.fixture
def serve(new_foreign: Foreigners, foreign: Pair, tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, new_foreign.options(tmp_path / "known", *foreign))
    service.start()
    yield service
    service.stop()


class Service:
    """`runner serve` on two addresses, told by its environment as in a container."""

    def __init__(self, folder: Path, options: list[str]) -> None:
        names = {"--identity": "RUNNER_IDENTITY", "--known-hosts": "RUNNER_KNOWN_HOSTS"}
        names["--address-state"] = "RUNNER_ADDRESS_STATE"
        pairs = list(zip(options[::2], options[1::2], strict=True))
        self.environment = {**NO_DOCKER, **{names[name]: value for name, value in pairs if name in names}}
        self.environment["RUNNER_ADDRESSES"] = " ".join(value for name, value in pairs if name == "--address")
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    def start(self) -> None:
        listen = ["--listen", f"127.0.0.1:{self.port}", "--state", str(self.folder / "service")]
        with (self.folder / "log").open("ab") as log:
            self.process = programs.start(
                programs.runner, "serve", *listen, environment=self.environment, stderr=log
            )  # fmt: skip
        until("the service answers", self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        return answers(f"http://127.0.0.1:{self.port}/ready")

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(DEADLINE)

    def ask(self, method: str, path: str, **more: object) -> httpx.Response:
        token = (self.folder / "service" / "token").read_text().strip()
        url = f"http://127.0.0.1:{self.port}/v1/{path}"
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.request(method, url, headers=headers, timeout=DEADLINE, verify=False, **more)  # type: ignore[arg-type]

    def submit(self, script: str) -> str:
        return str(self.ask("POST", "jobs", json={"script": script, "trust_key": "team"}).json()["id"])

    def has_started(self, job: str) -> bool:
        return "started" in self.log(job, follow=False)

    def log(self, job: str, *, follow: bool) -> str:
        return self.ask("GET", f"jobs/{job}/log", params={"follow": follow}).text


def test_a_job_outlives_the_service_and_two_run_at_once(serve: Service) -> None:
    meet = "echo started; until [ -e ~/go ]; do sleep 0.05; done; rm ~/go; echo done"
    jobs = [serve.submit(meet), serve.submit(meet)]
    for job in jobs:
        until("it runs", partial(serve.has_started, job))
    serve.stop(signal.SIGKILL)
    serve.start()
    assert runner_is_refused(serve)
    for one in serve.environment["RUNNER_ADDRESSES"].split():
        let_go_on(serve, one)
    assert [serve.log(job, follow=True).splitlines()[:2] for job in jobs] == [["started", "done"]] * 2


def runner_is_refused(serve: Service) -> bool:
    """Another process of this host gets neither of the two."""
    words = ("run", "--trust-key", "team", "--wait", "0", "-")
    other = programs.run(programs.runner, *words, given="true", environment=serve.environment, timeout=DEADLINE)
    # Until the service has found a job again, its sandbox is kept for it.
    refusals = other.stderr.count("is busy") + other.stderr.count("is kept for a job whose runner is not heard of")
    return other.returncode == 69 and refusals == 2


def let_go_on(serve: Service, address: str) -> None:
    """Let the job at an address go on, as its user would."""
    place, _, port = address.rpartition(":")
    options = [
        "-o",
        f"UserKnownHostsFile={serve.environment['RUNNER_KNOWN_HOSTS']}",
        "-o",
        "BatchMode=yes",
        "-F",
        "none",
    ]
    identity = Path(serve.environment["RUNNER_IDENTITY"])
    identity.chmod(0o600)
    subprocess.run(["ssh", *options, "-i", identity, "-p", port, place, "touch go"], check=True, timeout=DEADLINE)


def test_an_address_needs_a_key() -> None:
    ran = runner("run", "--address", "sandbox@192.0.2.1:22", "-", script="true")
    assert (ran.returncode, ran.stderr.count("--identity")) == (78, 1)
