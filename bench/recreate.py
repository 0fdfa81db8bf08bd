"""Recreate time: from the decision to a sandbox that was proven fit, against `docker run` of the same image.

Ours makes keys, network and volume, puts the given files in, starts, logs in, has a nonce echoed and asks inner Docker.
A keeper does the part before the start in advance, so it is left out; `from_nothing_s` includes it. The peer is a plain
container with a volume, from `docker run` until its inner Docker Engine answers `/info`, which we ask as well. In turn,
on the same engine; needs root, to see the peer's inner socket. The goal is a ratio of at most 1.2.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import socket
import statistics
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network

from sandbox.engine import Engine
from sandbox.keeper.builder import Builder, Built
from sandbox.profile import Profile
from sandbox.template import InstallationId, SandboxName

DEADLINE = 60.0


class Maker:
    """Makes our sandboxes one after the other, as a keeper does."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._engine = Engine()
        self._builder = Builder(self._engine, IPv4Network("10.213.0.0/16"))
        self._installation = InstallationId(uuid.uuid4().hex[:8])
        self._generations = itertools.count(1)

    @contextmanager
    def built(self) -> Iterator[Built]:
        """Yield a sandbox, and remove it at the end."""
        with self._name() as name:
            yield self._builder.build(name, "bench", self.profile, lambda _: None)

    def seconds(self) -> tuple[float, float]:
        """Make a sandbox, and return the seconds until it is proven fit: from its start, and from nothing."""
        with self._name() as name:
            began = time.perf_counter()
            prepared = self._builder.prepare(name, "bench", self.profile)
            start = time.perf_counter()
            self._builder.boot(prepared, lambda _: None)
            end = time.perf_counter()
        return end - start, end - began

    @contextmanager
    def _name(self) -> Iterator[SandboxName]:
        """Yield a sandbox's name, and remove all that has it at the end."""
        try:
            yield SandboxName(self._installation, next(self._generations))
        finally:
            self._engine.remove(self._installation)


def plain(profile: Profile) -> float:
    """Return the seconds until the inner Docker Engine of a plain container answers."""
    name = f"bench-{uuid.uuid4().hex[:8]}"
    start = time.perf_counter()
    try:
        docker(
            "run", "--detach", "--name", name, "--runtime", profile.runtime, "--volume", f"{name}:/var/lib/docker",
            profile.image,
        )  # fmt: skip
        pid = docker("inspect", "--format", "{{.State.Pid}}", name)
        until(lambda: answers(f"/proc/{pid}/root/run/docker.sock"))
        return time.perf_counter() - start
    finally:
        docker("rm", "--force", "--volumes", name)
        docker("volume", "rm", "--force", name)


def docker(*words: str) -> str:
    """Run a docker command and return what it printed."""
    return subprocess.run(
        ["docker", *words], check=True, capture_output=True, text=True, timeout=DEADLINE
    ).stdout.strip()


def answers(path: str) -> bool:
    """Return whether a Docker Engine answers on a unix socket."""
    connection = http.client.HTTPConnection("docker", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(path)
        connection.request("GET", "/info")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"What is waited for did not come within {DEADLINE:.0f} s.")
        time.sleep(0.005)


def measure(profile: Profile, rounds: int) -> dict[str, float]:
    """Measure both in turn."""
    maker = Maker(profile)
    in_turn = [(*maker.seconds(), plain(profile)) for _ in range(rounds + 1)][1:]
    recreate, whole, run = (statistics.median(column) for column in zip(*in_turn, strict=True))
    seconds = {"recreate_s": recreate, "from_nothing_s": whole, "docker_run_s": run}
    ratios = {"ratio": recreate / run, "ratio_from_nothing": whole / run}
    return {name: round(value, 2) for name, value in (seconds | ratios).items()}


def report(profile: Profile, rounds: int) -> None:
    """Measure and print."""
    if shutil.which("docker") is None:
        raise SystemExit("The peer is `docker run`, and there is no docker command here. Install it (docker-cli).")
    numbers = measure(profile, rounds)
    print(json.dumps({"bench": "recreate", "runtime": profile.runtime, "rounds": rounds, **numbers}))
    print(
        f"A sandbox was proven fit after {numbers['recreate_s']} s ({numbers['from_nothing_s']} with what is done in "
        f"advance), `docker run` and its inner Docker took {numbers['docker_run_s']} s: {numbers['ratio']} times as "
        f"long ({numbers['ratio_from_nothing']}); the goal is 1.2."
    )


def profile_of_environment() -> Profile:
    """Return the default profile with the runtime and image that the environment names."""
    names = {"runtime": "SANDBOX_RUNTIME", "image": "SANDBOX_IMAGE"}
    return Profile.model_validate({field: os.environ[name] for field, name in names.items() if name in os.environ})
