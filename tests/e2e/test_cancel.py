"""Cancelling leaves nothing behind, as seen from the host."""

from __future__ import annotations

import signal

import docker
import pytest

from tests.e2e.conftest import DEADLINE, Keeper, leased, pids_of, start, until

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


@pytest.mark.parametrize(("number", "by"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_cancelled_job_leaves_no_process(
    keeper: Keeper, docker_client: docker.DockerClient, number: signal.Signals, by: str
) -> None:
    process = start(keeper, STUBBORN)
    assert process.stdout is not None
    while process.stdout.readline() != "running\n":
        assert process.poll() is None, process.stderr and process.stderr.read()
    sandbox = leased(keeper)
    assert len(pids_of(docker_client, sandbox.name)) > len(sandbox.processes_at_ready) + 5
    process.send_signal(number)
    _, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, stderr
    assert f"cancelled by {by}" in stderr
    # Whatever became of the sandbox: none of the job's processes is on this host, and a kept one is as at `ready`.
    keeper.settle()
    now = {report.name: report for report in keeper.client.listing().sandboxes}
    if sandbox.name in now:
        until(
            "only the processes recorded at ready are there",
            lambda: pids_of(docker_client, sandbox.name) == sandbox.processes_at_ready,
        )


def test_a_cancelled_job_that_forks_without_end_is_ended(keeper: Keeper, docker_client: docker.DockerClient) -> None:
    """The trap: a list of processes to kill is old by the time it is used."""
    process = start(keeper, "f() { f | f & }; for i in $(seq 50); do (while :; do sleep 0.01 & done) & done; wait")
    sandbox = leased(keeper)
    until("it forks", lambda: len(pids_of(docker_client, sandbox.name)) > 60)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, stderr
    keeper.settle()


def test_a_second_ctrl_c_changes_nothing(keeper: Keeper) -> None:
    process = start(keeper, "trap '' TERM; while :; do sleep 1; done")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, stderr
    assert stderr.count("cancelled by Ctrl-C") == 2  # said at once, and as the outcome
