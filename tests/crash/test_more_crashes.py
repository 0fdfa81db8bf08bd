"""The crashes that the matrix has no cell for: upgrades, a network that stays cut, two installations on one engine."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from secrets import token_urlsafe

import docker
import pytest

from sandbox.keeper import protocol
from tests.crash.checks import OUTPUT, SCRIPT, check, check_nothing_is_left, flushed, outcome_of
from tests.crash.lab import CrashKeeper, Lab
from tests.crash.matrix import ENDED, Point
from tests.crash.wire_cutter import Cut
from tests.e2e.conftest import DEADLINE, left_of
from tests.waiting import until


def test_a_running_job_survives_an_upgrade_of_runner_and_keeper(lab: Lab) -> None:
    lab.job = lab.runner.submit(SCRIPT)
    until("a part of the log is there", lambda: flushed(lab))
    kept = flushed(lab)
    lab.runner.signal(signal.SIGUSR1)
    assert lab.runner.wait() == 0
    assert lab.keeper.process is not None
    lab.keeper.process.send_signal(signal.SIGUSR1)
    assert lab.keeper.process.wait(DEADLINE) == 0
    lab.starts.go()
    lab.runner.start()
    lab.keeper.restart()
    outcome = outcome_of(lab)
    lab.keeper.settle()
    check(lab, ENDED, outcome, kept)
    check_nothing_is_left(lab)


def submit(lab: Lab, **job: object) -> str:
    answer = lab.runner.api.post("/v1/jobs", json=job)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def _kill_both(lab: Lab) -> None:
    lab.runner.kill()
    lab.keeper.kill()
    lab.starts.go()
    lab.runner.start()
    lab.keeper.restart()


def test_a_job_of_steps_goes_on_in_the_step_in_which_it_is(lab: Lab) -> None:
    """Runner and keeper are killed in its second step. Nothing outside says that the third one is next."""
    steps = [("first", "echo first"), ("second", SCRIPT), ("third", "echo third")]
    lab.job = submit(lab, steps=[{"name": name, "script": script, "always": name == "third"} for name, script in steps])
    until("the second step runs", lambda: lab.starts.count == 1 and flushed(lab) > 1 << 20)
    _kill_both(lab)
    assert outcome_of(lab)["code"] == 7
    states = [(step["state"], step["exit_code"]) for step in lab.runner.show(lab.job)["steps"]]
    assert states == [("succeeded", 0), ("failed", 7), ("succeeded", 0)]
    assert lab.starts.count == 1
    log = lab.runner.api.get(f"/v1/jobs/{lab.job}/log").content
    assert OUTPUT in log
    said = re.sub(rb" after [0-9.]+ s", b"", log.replace(OUTPUT, b"[output]"))
    assert said.decode().splitlines() == [
        "runner: step 1 of 3, first: begins",
        "first",
        "runner: step 1 of 3, first: succeeded",
        "runner: step 2 of 3, second: begins",
        "[output]",
        "runner: step 2 of 3, second: failed with exit code 7",
        "runner: step 3 of 3, third: begins",
        "third",
        "runner: step 3 of 3, third: succeeded",
        "runner: The script failed with exit code 7.",
    ]
    lab.keeper.settle()
    check_nothing_is_left(lab)


def test_a_job_that_asks_for_it_is_started_again_after_its_sandbox_was_removed(lab: Lab) -> None:
    """Its second start is in another sandbox, and runs while runner and keeper are killed."""
    lab.job = submit(lab, script=SCRIPT, retry=1)
    until("it runs", lambda: lab.starts.count == 1 and flushed(lab) > 1 << 20)
    lab.container.remove(force=True, v=True)

    def again() -> bool:
        lab.watch()
        return lab.starts.count == 2 and lab.runner.show(lab.job)["state"] == "running"

    until("it runs again", again, DEADLINE)
    _kill_both(lab)
    assert outcome_of(lab)["code"] == 7
    assert (lab.starts.count, lab.runner.show(lab.job)["retries"]) == (2, 1)
    first, line, second = lab.runner.api.get(f"/v1/jobs/{lab.job}/log").content.partition(
        b"runner: The sandbox was lost"
    )
    assert line
    assert OUTPUT.startswith((first, first.removesuffix(b"\n")))  # the line begins on a line of its own
    said, _, output = second.partition(b"\n")
    assert said.endswith(b"The job is started again (retry 1 of 1).")
    assert output == OUTPUT + b"\nrunner: The script failed with exit code 7.\n"
    lab.keeper.settle()
    check_nothing_is_left(lab)


def test_a_job_survives_a_network_that_stays_cut_for_longer_than_one_try(lab: Lab) -> None:
    """The trap: the keeper takes a sandbox that does not answer for a dead one, and removes it with its running job."""
    lab.runner.stop_at(Point.RUNNING)
    lab.job = lab.runner.submit(SCRIPT)
    lab.runner.wait_until_stopped()
    kept = flushed(lab)
    lab.wire.cut(Cut.DROP, new=True)
    lab.runner.cont()
    lab.starts.go()
    until("a new connection is tried", lab.wire.tries)
    first = lab.wire.tries()
    until("it was given up", lambda: not first & lab.wire.tries())
    lab.wire.cut(Cut.DROP, new=False)
    outcome = outcome_of(lab)
    lab.keeper.settle()
    check(lab, ENDED, outcome, kept)
    check_nothing_is_left(lab)


@pytest.fixture
def neighbours(
    tmp_path: Path, sandbox_runtime: str, sandbox_image: str, docker_client: docker.DockerClient
) -> Iterator[list[CrashKeeper]]:
    """Two installations on one engine."""
    keepers = [CrashKeeper(tmp_path / name, sandbox_runtime, sandbox_image, warm=1) for name in ("a", "b")]
    for keeper in keepers:
        keeper.folder.mkdir()
        keeper.restart()
    yield keepers
    for keeper in keepers:
        assert keeper.process is not None
        if keeper.process.poll() is None:
            keeper.process.send_signal(signal.SIGTERM)
            keeper.process.send_signal(signal.SIGTERM)
            keeper.process.wait(DEADLINE)


def test_two_installations_never_touch_each_other(
    neighbours: list[CrashKeeper], docker_client: docker.DockerClient
) -> None:
    """One sandbox of each is leased when both are killed, and when one of them is removed for good."""
    tokens = [token_urlsafe(24) for _ in neighbours]
    for keeper, token in zip(neighbours, tokens, strict=True):
        keeper.settle()
        lend = protocol.Lend(attempt="a", token=token, profile="default", trust_key="k", wait=60, patience=60)
        keeper.client.lend(lend)[1].close()
        keeper.client.renew(token)
    made = [[container.id for container in keeper.containers(docker_client)] for keeper in neighbours]
    for keeper in neighbours:
        keeper.kill()
    for keeper, token in zip(neighbours, tokens, strict=True):
        keeper.restart()
        keeper.client.resume(token)[1].close()
    assert [[container.id for container in keeper.containers(docker_client)] for keeper in neighbours] == made

    first, second = neighbours
    installations = [keeper.client.listing().installation for keeper in neighbours]
    first.client.give_back(tokens[0], used=False)
    first.settle()
    first.stop()
    assert left_of(docker_client, installations[0]) == []
    second.client.resume(tokens[1])[1].close()
    assert [container.id for container in second.containers(docker_client)] == made[1]
    second.client.give_back(tokens[1], used=False)
    second.settle()
    second.stop()
