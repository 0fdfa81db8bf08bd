"""`sandbox run true`, cold and borrowed from a keeper, against `docker run --rm IMAGE true` and against `ssh`.

Cold makes a sandbox, proves it and removes it; its peer is a container of the same image under the same runtime, which
boots nothing. Borrowed takes a warm sandbox from a keeper that the bench starts; its peer is OpenSSH's client, which
logs in to an existing sandbox. Each is a process, measured from its start to its end, in turn. Needs root.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bench import recreate
from bench.access import WHERE
from sandbox import places
from sandbox.errors import KeeperError
from sandbox.keeper.client import KeeperClient
from sandbox.profile import Profile

DEADLINE = 120.0
SANDBOX = [*WHERE, sys.executable, "-m", "sandbox.entry"]


def seconds(command: list[str], environment: Mapping[str, str]) -> float:
    """Run one process and return how long it took."""
    start = time.perf_counter()
    subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


@contextmanager
def keeper(folder: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """Run a keeper with two warm sandboxes, and yield its socket."""
    folders = ["--run-folder", str(folder / "run"), "--home", str(folder / "home")]
    with (folder / "keeper.log").open("wb") as log:
        process = subprocess.Popen([*SANDBOX, "keeper", *folders], env=environment, stderr=log)
    path = folder / "run" / places.SOCKET_IN_RUN_FOLDER
    try:
        wait_until_fit(path)
        yield path
    finally:
        process.terminate()
        process.wait(DEADLINE)


def wait_until_fit(socket: Path) -> None:
    """Wait until a keeper has a sandbox to lend."""
    end = time.monotonic() + DEADLINE
    while True:
        try:
            if KeeperClient(socket).ping().fit:
                return
        except KeeperError:
            pass
        if time.monotonic() > end:
            raise SystemExit("The keeper had no sandbox in time.")
        time.sleep(0.05)


def measure(profile: Profile, folder: Path, rounds: int) -> dict[str, float]:
    """Measure all four in turn, and return medians and ratios."""
    environment = {
        **os.environ,
        "XDG_STATE_HOME": str(folder),
        "SANDBOX_RUNTIME": profile.runtime,
        "SANDBOX_IMAGE": profile.image,
    }
    subprocess.run([*SANDBOX, "up", "bench"], env=environment, stdout=subprocess.DEVNULL, check=True)
    try:
        with keeper(folder, environment) as socket:
            config = folder / "ssh_config"
            config.write_bytes(subprocess.check_output([*SANDBOX, "ssh-config", "bench"], env=environment))
            plain = [
                *WHERE,
                "docker",
                "run",
                "--rm",
                "--runtime",
                profile.runtime,
                "--entrypoint",
                "true",
                profile.image,
            ]
            commands = {
                "cold": [*SANDBOX, "run", "--ttl", "10m", "true"],
                "docker_run": plain,
                "borrowed": [*SANDBOX, "run", "--keeper", str(socket), "true"],
                "ssh": [*WHERE, "ssh", "-F", str(config), "bench.sandbox", "true"],
            }
            taken: dict[str, list[float]] = {name: [] for name in commands}
            for _ in range(rounds + 1):
                for name, command in commands.items():
                    wait_until_fit(socket)
                    taken[name].append(seconds(command, environment))
    finally:
        subprocess.run([*SANDBOX, "rm", "--all"], env=environment, stdout=subprocess.DEVNULL, check=True)
    medians = {name: statistics.median(values[1:]) for name, values in taken.items()}
    ratios = {
        "cold_ratio": medians["cold"] / medians["docker_run"],
        "borrowed_ratio": medians["borrowed"] / medians["ssh"],
    }
    return {
        **{f"{name}_s": round(value, 2) for name, value in medians.items()},
        **{k: round(v, 1) for k, v in ratios.items()},
    }


def report(profile: Profile, rounds: int) -> None:
    """Measure and print."""
    for program in ("docker", "ssh"):
        if shutil.which(program) is None:
            raise SystemExit(f"A peer is `{program}`, and there is no such command here. Install it.")
    with tempfile.TemporaryDirectory() as folder:
        numbers = measure(profile, Path(folder), rounds)
    print(json.dumps({"bench": "sandbox_run", "runtime": profile.runtime, "rounds": rounds, **numbers}))
    print(
        f"`sandbox run true` took {numbers['cold_s']} s, {numbers['cold_ratio']} times a plain `docker run`, which "
        f"boots nothing; borrowed from a keeper {numbers['borrowed_s']} s, {numbers['borrowed_ratio']} times ssh's."
    )


if __name__ == "__main__":
    report(recreate.profile_of_environment(), rounds=5)
