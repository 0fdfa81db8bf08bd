"""Each limit of a profile holds against a job that wants more; the sandbox and the others live on."""

from __future__ import annotations

import re
import textwrap
import time

import docker
import pytest

from tests.e2e.conftest import DEADLINE, Keeper, leased, pids_of, run, run_json, start
from tests.limits.conftest import CPUS, MEMORY, NOFILE, PIDS, lives_on

BUSY = """
    import os, time
    began = time.monotonic()
    for _ in range(2):
        if not os.fork():
            while time.monotonic() < began + 2:
                pass
            os._exit(0)
    os.wait(), os.wait()
    times = os.times()
    print((times.children_user + times.children_system) / (time.monotonic() - began))
"""
HOG = """
    taken = []
    while True:
        taken.append(b"x" * 2**20)
"""
FORKS = """
    import os, signal
    forked = 0
    try:
        while os.fork():
            forked += 1
        signal.pause()
    except OSError as error:
        print(forked, os.strerror(error.errno))
"""
OPEN = """
    import os
    opened = 3
    try:
        while True:
            os.dup(0)
            opened += 1
    except OSError as error:
        print(opened, os.strerror(error.errno))
"""


def python(program: str) -> str:
    return f"python3 - <<'PYTHON'\n{textwrap.dedent(program)}\nPYTHON\n"


def test_cpus_are_a_quota_over_everything_that_runs(small: Keeper) -> None:
    cores = float(run(small, python(BUSY)).stdout)
    assert CPUS / 10 < cores < CPUS * 1.2  # other tests use this processor too


def test_nproc_follows_the_cpuset_and_it_cannot_be_left(small: Keeper) -> None:
    result = run(small, "nproc; sudo taskset -c 1 true 2>&1")
    assert result.stdout.startswith("1\n"), result.stdout
    assert "Invalid argument" in result.stdout


def test_processes_are_limited(small: Keeper) -> None:
    result = run(small, python(FORKS))
    forked, why = result.stdout.split(maxsplit=1)
    assert PIDS / 2 < int(forked) < PIDS, result.stdout
    assert why == "Resource temporarily unavailable\n"


def test_the_engine_is_told_the_limits_and_no_right_that_a_sandbox_must_not_have(
    small: Keeper, docker_client: docker.DockerClient
) -> None:
    settings = docker_client.containers.get(small.ready()[0].name).attrs["HostConfig"]
    assert (settings["Memory"], settings["PidsLimit"]) == (MEMORY, PIDS)
    assert settings["Privileged"] is False
    assert {settings[name] for name in ("Binds", "SecurityOpt", "CapAdd")} == {None}


def test_a_memory_hog_is_killed_and_its_script_goes_on(small: Keeper) -> None:
    before = {sandbox.name for sandbox in small.ready()}
    result = run(small, f'( {python(HOG)}) || echo "ended with $?"; docker info >/dev/null && echo docker is well')
    assert result.stdout.endswith("ended with 137\ndocker is well\n"), result.stdout + result.stderr
    lives_on(small, before)


def test_a_script_that_is_the_hog_is_told_as_killed_and_not_as_lost(small: Keeper) -> None:
    outcome = run_json(small, f"exec python3 -c '{textwrap.dedent(HOG)}'")
    assert (outcome["outcome"], outcome["signal"], outcome["exit_code"]) == ("killed", 9, 137)


def test_memory_cannot_be_taken_by_a_tmpfs_either(small: Keeper) -> None:
    """The trap: files in memory that no process's size tells of."""
    fill = f"head -c {4 * MEMORY} /dev/zero | sudo tee /mnt/file >/dev/null"
    before = {sandbox.name for sandbox in small.ready()}
    run(small, f"sudo mount -t tmpfs -o size=8G none /mnt && {fill}", "--timeout", "20")
    assert run(small, "echo fine").stdout == "fine\n"
    assert before & {sandbox.name for sandbox in small.client.listing().sandboxes}, "one of them was not touched"


def test_a_fork_bomb_is_bounded_and_ended(small: Keeper, docker_client: docker.DockerClient) -> None:
    before = {sandbox.name for sandbox in small.ready()}
    job = start(small, "bomb() { bomb | bomb; }; bomb 2>/dev/null", "--timeout", "4")
    name = leased(small).name
    most = 0
    while job.poll() is None:
        most = max(most, len(pids_of(docker_client, name)) if name in names(small) else 0)
        time.sleep(0.1)  # the bomb sets the pace
    _, err = job.communicate(timeout=DEADLINE)
    assert job.returncode == 124, err
    assert PIDS / 2 < most <= PIDS
    assert run(small, "echo fine").stdout == "fine\n"
    assert before - {name} <= names(small)


def names(keeper: Keeper) -> set[str]:
    return {sandbox.name for sandbox in keeper.client.listing().sandboxes}


@pytest.mark.parametrize("user", ["", "sudo "])
def test_open_files_are_limited_and_a_job_may_raise_that_itself(small: Keeper, user: str) -> None:
    text = textwrap.dedent(OPEN).strip()
    result = run(small, f"cat >open.py <<'PYTHON'\n{text}\nPYTHON\n{user}python3 open.py; ulimit -Hn")
    found = re.fullmatch(r"(\d+) Too many open files\n(\d+)\n", result.stdout)
    assert found, result.stdout + result.stderr
    assert abs(int(found[1]) - NOFILE) <= 2
    assert int(found[2]) > NOFILE
