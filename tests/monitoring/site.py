"""A real runner, a keeper behind an engine that misbehaves on command, and a real Prometheus that watches both."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx

from runner.gitlab import hook
from sandbox.errors import KeeperError
from sandbox.state import State
from tests import programs
from tests.crash.lab import small_disk
from tests.e2e import keeper_on_stand_ins
from tests.e2e.conftest import DEADLINE, Keeper
from tests.faults.engine_proxy import EngineProxy
from tests.monitoring.source import ROOT
from tests.stand_ins import StandIn, both
from tests.waiting import until
from tests.web import answers

EXAMPLES = ROOT / "examples/monitoring"
SHORTER = (
    (re.compile(r"for: \d+m"), "for: 1s"),
    (re.compile(r"\[(10m|30m)]"), "[20s]"),
    (re.compile(r"\[1h]"), "[40s]"),
    (re.compile(r"> 600\b"), "> 3"),
)
"""What is waited for in production, and what a test waits instead. Nothing else about the rules is changed."""
INTERVAL = "1s"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@dataclass
class WatchedKeeper(Keeper):
    """A keeper whose `nft` can be broken, and that is started without waiting for sandboxes."""

    at_rest: ClassVar[frozenset[State]] = frozenset({State.READY, State.LEASED})
    """The runner beside it holds one in advance, from when two are ready."""

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}

    def come_up(self, config: str = "") -> None:
        """Start it, and wait until it answers."""
        (self.folder / "keeper.toml").write_text(config)
        self.process = self.begin("--config", str(self.folder / "keeper.toml"))
        until("the keeper answers", self._answers, DEADLINE)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait(DEADLINE)

    @contextmanager
    def without_nft(self) -> Iterator[None]:
        """Its host has lost the command, as after an upgrade that went wrong."""
        shim = self.folder / "bin" / "nft"
        shim.parent.mkdir(exist_ok=True)
        shim.write_text("#!/bin/sh\necho 'nft: no such library' >&2\nexit 127\n")
        shim.chmod(0o755)
        yield
        shim.unlink()

    def _answers(self) -> bool:
        try:
            return bool(self.client.listing().installation)
        except KeeperError:
            return False


@dataclass
class Site:
    """All of it. `state` is on a small disk of its own."""

    folder: Path
    keeper: WatchedKeeper
    proxy: EngineProxy
    daemon: StandIn
    """One of two that the keeper's runtime rests on."""
    state: Path
    api: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    prometheus: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    receiver: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    """Of webhooks. Nobody is there until `receiving`."""
    fired: set[str] = field(default_factory=set)
    """Alerts that were waited for, and came."""

    # -- the runner ----------------------------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[None]:
        """The runner and Prometheus, for as long as the block lasts."""
        places = ["--keeper", str(self.keeper.socket), "--state", str(self.state), "--listen", self.api, "--slots", "1"]
        hooks = ["--gitlab-socket", str(self.folder / "gitlab.sock")]
        secret = f"whsec_{b64encode(bytes(32)).decode()}"
        told = {"RUNNER_WEBHOOKS_URLS": f"http://{self.receiver}/", "RUNNER_WEBHOOKS_SECRET": secret}
        environment = {**os.environ, **told}
        with (self.folder / "runner.log").open("wb") as log:
            self.runner = programs.start(
                programs.runner, "serve", *places, *hooks, stderr=log, environment=environment
            )  # fmt: skip
        try:
            until("the runner answers", self._lives)
            bearer = {"Authorization": f"Bearer {(self.state / 'token').read_text().strip()}"}
            self.client = httpx.Client(base_url=f"http://{self.api}", headers=bearer, timeout=DEADLINE, verify=False)
            with self.client, self._watched():
                yield
        finally:
            self.runner.send_signal(signal.SIGQUIT)
            self.runner.wait(DEADLINE)

    def submit(self, script: str, **more: object) -> str:
        answer = self.client.post("/v1/jobs", json={"script": script, **more})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def finish(self, *jobs: str) -> list[str]:
        """Wait for the ends of jobs, and return their outcomes."""
        views = {job: dict[str, Any]() for job in jobs}

        def finished() -> bool:
            for job in views:
                views[job] = self.client.get(f"/v1/jobs/{job}").json()
            return all(view["state"] == "finished" for view in views.values())

        until("the jobs are finished", finished, DEADLINE)
        return [str(view["outcome"]["outcome"]) for view in views.values()]

    def hook(self) -> None:
        """One hook of gitlab-runner's, about a job that nobody understands."""
        (self.folder / "job.json").write_text("{}")
        places = {
            "RUNNER_GITLAB_SOCKET": str(self.folder / "gitlab.sock"),
            "JOB_RESPONSE_FILE": str(self.folder / "job.json"),
        }
        environment = {**os.environ, **places}
        command = [sys.executable, "-I", "-S", hook.__file__, "cleanup"]
        subprocess.run(command, env=environment, capture_output=True, timeout=30, check=False)

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Somebody takes the messages about jobs that ended."""
        host, _, port = self.receiver.partition(":")
        with ThreadingHTTPServer((host, int(port)), _Receiver) as server:
            threading.Thread(target=server.serve_forever).start()
            yield
            server.shutdown()

    @contextmanager
    def stopped_runner(self) -> Iterator[None]:
        self.runner.send_signal(signal.SIGSTOP)
        yield
        self.runner.send_signal(signal.SIGCONT)

    @contextmanager
    def locked_store(self) -> Iterator[None]:
        """Another program holds the database, as a backup that was made by hand."""
        other = sqlite3.connect(self.state / "runner.db", isolation_level=None)
        until("the database is free", lambda: _tried(other, "BEGIN IMMEDIATE"))
        yield
        other.close()

    @contextmanager
    def full_state(self) -> Iterator[None]:
        """The disk of the state folder has less left than a tenth."""
        room = os.statvfs(self.state)
        ballast = self.state / "ballast"
        ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - room.f_blocks * room.f_frsize // 20))
        yield
        ballast.unlink()

    def _lives(self) -> bool:
        assert self.runner.poll() is None, (self.folder / "runner.log").read_text()
        return answers(f"http://{self.api}/live")

    # -- Prometheus ----------------------------------------------------------------------------------------------

    @contextmanager
    def _watched(self) -> Iterator[None]:
        token = self.client.post("/v1/tokens", json={"name": "prometheus", "scopes": ["metrics"]}).json()["token"]
        (self.folder / "token").write_text(token)
        rules = (EXAMPLES / "alerts.yml").read_text()
        for usual, shorter in SHORTER:
            rules, count = usual.subn(shorter, rules)
            assert count, usual
        (self.folder / "alerts.yml").write_text(rules)
        config = (EXAMPLES / "prometheus.yml").read_text().replace("127.0.0.1:8080", self.api)
        (self.folder / "prometheus.yml").write_text(re.sub(r"(interval|timeout): \d+s", rf"\1: {INTERVAL}", config))
        places = [f"--config.file={self.folder / 'prometheus.yml'}", f"--storage.tsdb.path={self.folder / 'tsdb'}"]
        with (self.folder / "prometheus.log").open("wb") as log:
            command = ["prometheus", *places, f"--web.listen-address={self.prometheus}"]
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until("Prometheus is ready", lambda: answers(f"http://{self.prometheus}/-/ready"), DEADLINE)
            yield
        finally:
            process.terminate()
            process.wait(DEADLINE)

    def query(self, expression: str) -> list[float]:
        """The values that an expression has now."""
        answer = httpx.get(
            f"http://{self.prometheus}/api/v1/query", params={"query": expression}, timeout=10, verify=False
        ).json()
        assert answer["status"] == "success", answer
        return [float(sample["value"][1]) for sample in answer["data"]["result"]]

    def firing(self) -> set[str]:
        """The alerts that fire now."""
        answer = httpx.get(f"http://{self.prometheus}/api/v1/alerts", timeout=10, verify=False).json()
        return {alert["labels"]["alertname"] for alert in answer["data"]["alerts"] if alert["state"] == "firing"}

    def fires(self, *alerts: str) -> None:
        """Wait until each has fired."""
        quiet = set(alerts)

        def fired() -> bool:
            quiet.difference_update(self.firing())
            return not quiet

        until(f"{', '.join(alerts)} fire", fired, DEADLINE)
        self.fired.update(alerts)

    def clears(self) -> None:
        """Wait until nothing fires any more."""
        until(f"{', '.join(self.firing())} clear", lambda: not self.firing(), DEADLINE)


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Tell nobody."""


def _tried(connection: sqlite3.Connection, statement: str) -> bool:
    try:
        connection.execute(statement)
    except sqlite3.OperationalError:
        return False
    return True


@contextmanager
def site(folder: Path, runtime: str, image: str, engine: str) -> Iterator[Site]:
    """One that runs."""
    with (
        EngineProxy(folder / "docker.sock", engine) as proxy,
        small_disk(folder / "state") as state,
        both(folder / "daemons") as daemons,
    ):
        (folder / "keeper").mkdir()
        before = keeper_on_stand_ins.words(runtime, daemons)
        keeper = WatchedKeeper(
            folder / "keeper", runtime, image, engine=proxy.url, main=keeper_on_stand_ins.main, before=before
        )
        there = Site(folder, keeper, proxy, daemons[0], state)
        try:
            keeper.come_up()
            with there.running():
                yield there
        finally:
            proxy.clear()
            keeper.stop()
