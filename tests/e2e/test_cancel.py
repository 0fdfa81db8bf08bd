"""Cancelling leaves nothing behind, as seen from the host."""

from __future__ import annotations

import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import docker

from sandbox.keeper import protocol
from sandbox.state import State
from tests import programs
from tests.e2e.conftest import DEADLINE, Keeper, leased, pids_of, start, words_of_run
from tests.programs import PIPE, Program
from tests.waiting import until

STUBBORN = """
trap '' TERM INT
setsid sh -c 'trap "" TERM; while :; do sleep 1; done' &
sudo setsid nohup sh -c 'trap "" TERM; while :; do sleep 1; done' >/dev/null 2>&1 &
cp "$(command -v busybox)" .
printf 'FROM scratch\\nCOPY busybox /bin/busybox\\n' >Dockerfile
docker build -q -t stubborn . >/dev/null
docker run -d --restart=always stubborn /bin/busybox sleep 1000000 >/dev/null
sudo unshare --pid --fork sleep 1000000 &
echo running
while :; do sleep 1; done
"""


@dataclass
class Stubborn:
    """A job that does what it can to stay."""

    process: Program
    sandbox: protocol.SandboxReport


def start_stubborn(keeper: Keeper, client: docker.DockerClient) -> Stubborn:
    before = leased_names(keeper)
    process = start(keeper, STUBBORN)
    assert process.stdout is not None
    while process.stdout.readline() != "running\n":
        assert process.poll() is None, process.stderr and process.stderr.read()
    [name] = leased_names(keeper) - before
    [sandbox] = [one for one in keeper.client.listing().sandboxes if one.name == name]
    assert len(pids_of(client, sandbox.name)) > len(sandbox.processes_at_ready) + 5
    return Stubborn(process, sandbox)


def leased_names(keeper: Keeper) -> set[str]:
    return {one.name for one in keeper.client.listing().sandboxes if one.state is State.LEASED}


def test_a_cancelled_job_leaves_no_process(keeper: Keeper, docker_client: docker.DockerClient) -> None:
    """Two at once, since each is given the whole grace. A second Ctrl-C changes nothing."""
    interrupted, terminated = (start_stubborn(keeper, docker_client) for _ in range(2))
    interrupted.process.send_signal(signal.SIGINT)
    interrupted.process.send_signal(signal.SIGINT)
    terminated.process.send_signal(signal.SIGTERM)
    for job, by in ((interrupted, "Ctrl-C"), (terminated, "SIGTERM")):
        _, stderr = job.process.communicate(timeout=DEADLINE)
        assert job.process.returncode == 130, stderr
        assert stderr.count(f"cancelled by {by}") == 2  # said at once, and as the outcome
    # Whatever became of the sandboxes: none of the jobs' processes is on this host, and a kept one is as at `ready`.
    keeper.settle()
    for job in (interrupted, terminated):
        until("only the processes recorded at ready are there", partial(is_gone, keeper, docker_client, job.sandbox))


def test_who_waits_for_a_sandbox_ends_at_once_and_leaves_the_next_one_to_others(keeper: Keeper) -> None:
    """The trap: it hung for --wait and 30 s, took the sandbox that came free, and a second Ctrl-C was a traceback."""
    lent = [lend(keeper, f"holder-{number}") for number in range(2)]
    words = words_of_run(keeper, "--trust-key", "waiting")
    waiting = programs.start(programs.runner, *words, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert waiting.stdin is not None
    waiting.stdin.write("echo never")
    waiting.stdin.close()
    waiting.stdin = None
    until("it waits", lambda: requests_waiting(keeper) == 1)
    began = time.monotonic()
    while waiting.poll() is None:
        waiting.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            waiting.wait(0.01)
        assert time.monotonic() - began < 10, "It does not end."
    out, err = waiting.communicate(timeout=DEADLINE)
    assert (waiting.returncode, out) == (130, ""), err
    assert err.splitlines() == [
        "runner: Waiting for a sandbox of profile default.",
        "runner: cancelled by Ctrl-C",
        "runner: The script was cancelled by Ctrl-C.",
    ]
    until("its request is gone", lambda: requests_waiting(keeper) == 0, 5.0)
    keeper.client.give_back(lent[0].token, used=False)
    following = lend(keeper, "following", "another")
    assert following.sandbox == lent[0].sandbox
    for grant in (lent[1], following):
        keeper.client.give_back(grant.token, used=False)
    keeper.settle()


def lend(keeper: Keeper, attempt: str, key: str = "team") -> protocol.LeaseGrant:
    request = protocol.Lend(
        attempt=attempt, token=f"token-of-{attempt:_<30}", profile="default", trust_key=key, wait=30.0, patience=60.0
    )
    grant, connection = keeper.client.lend(request)
    connection.close()
    return grant


def requests_waiting(keeper: Keeper) -> float:
    [line] = [line for line in keeper.client.metrics().splitlines() if line.startswith("sandbox_requests_waiting{")]
    return float(line.split()[-1])


def is_gone(keeper: Keeper, client: docker.DockerClient, sandbox: protocol.SandboxReport) -> bool:
    kept = sandbox.name in {one.name for one in keeper.client.listing().sandboxes}
    return not kept or pids_of(client, sandbox.name) == sandbox.processes_at_ready


TIDY = """
cat >tidy.py <<"END"
import os, signal, sys, time
told = []
def tell(*_):
    told.append(True)
    os.write(1, f"{sys.argv[1]} told\\n".encode())
signal.signal(signal.SIGTERM, tell)
os.write(1, b"running\\n")
while not told: time.sleep(0.05)
time.sleep(0.3)
os.write(1, f"{sys.argv[1]} tidied\\n".encode())
END
sudo python3 tidy.py root &
sudo setsid python3 tidy.py daemon &
wait
"""


def test_root_s_processes_tidy_up_when_their_job_is_cancelled(keeper: Keeper) -> None:
    """Each is told once: sudo passes on what it gets, and for many programs a second TERM means "at once"."""
    process = start(keeper, TIDY)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["running\n"] * 2
    process.send_signal(signal.SIGINT)
    said, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, stderr
    assert sorted(said.splitlines()) == ["daemon tidied", "daemon told", "root tidied", "root told"]


def test_a_cancelled_job_that_forks_without_end_is_ended(keeper: Keeper, docker_client: docker.DockerClient) -> None:
    """The trap: a list of processes to kill is old by the time it is used."""
    process = start(keeper, "f() { f | f & }; for i in $(seq 50); do (while :; do sleep 0.01 & done) & done; wait")
    sandbox = leased(keeper)
    until("it forks", lambda: len(pids_of(docker_client, sandbox.name)) > 60)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, stderr
    keeper.settle()
