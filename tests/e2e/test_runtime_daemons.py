"""A runtime's daemons end under running jobs, as sysbox's do: the job is told so, and the next one runs.

The test needs no sysbox: its own programs stand in for the daemons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest

from sandbox.errors import Fault
from sandbox.health import HostState
from tests.e2e import keeper_on_stand_ins
from tests.e2e.conftest import DEADLINE, Keeper, leased, pids_of, run, run_json, start
from tests.stand_ins import StandIn, both
from tests.waiting import until

WAIT = "until [ -e /tmp/go ]; do sleep 0.05; done\n"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[StandIn, StandIn]]:
    with both(tmp_path / "daemons") as made:
        yield made


@pytest.fixture
def keeper(pair: tuple[StandIn, StandIn], new_keeper: Callable[..., Keeper], sandbox_runtime: str) -> Iterator[Keeper]:
    """A keeper whose runtime rests on them, with two sandboxes."""
    before = keeper_on_stand_ins.words(sandbox_runtime, pair)
    made = new_keeper(main=keeper_on_stand_ins.main, before=before)
    made.start()
    yield made
    made.stop()


def condemned(keeper: Keeper) -> dict[str, Fault | None]:
    return {report.name: report.fault for report in keeper.client.listing().condemned}


def test_the_job_under_one_that_ends_is_lost_and_the_next_runs_when_it_is_back(
    keeper: Keeper, pair: tuple[StandIn, StandIn], docker_client: docker.DockerClient
) -> None:
    fs, _ = pair
    made = [sandbox.name for sandbox in keeper.ready()]
    # The trap: a process of the job's own by that name, as root, must not stand for the daemon.
    imposter = f"sudo cp $(command -v sleep) /usr/local/bin/{fs.program}; sudo {fs.program} 1000 & \n"
    job = start(keeper, f"{imposter}sleep 600")
    name = leased(keeper).name
    until("the imposter runs", lambda: fs.program in commands_in(docker_client, name))
    fs.end()
    _, told = job.communicate(timeout=DEADLINE)
    assert job.returncode == 75, told
    assert f"Its container runtime was stopped or restarted under it: the {fs.program} that it was" in told
    until("the idle one is lost too", lambda: condemned(keeper) == dict.fromkeys(made, Fault.RUNTIME_LOST))
    listing = keeper.client.listing()
    assert (listing.host, f"{fs.program} does not run" in listing.trouble) == (HostState.WELL, True)
    refused = run(keeper, "echo ran", "--wait", "1")
    assert (refused.returncode, refused.stdout) == (69, "")
    assert "`systemctl start stand-in`" in refused.stderr
    until("nothing of them is left", lambda: keeper.client.listing().sandboxes == [])
    fs.start()
    keeper.settle()
    assert run(keeper, "docker info >/dev/null && echo fine").stdout == "fine\n"
    assert condemned(keeper) == dict.fromkeys(made, Fault.RUNTIME_LOST)


def commands_in(client: docker.DockerClient, sandbox: str) -> set[str]:
    """The names of what runs in a sandbox."""
    found = set()
    for pid in pids_of(client, sandbox):
        with suppress(FileNotFoundError, ProcessLookupError):
            found.add(Path(f"/proc/{pid}/comm").read_text().strip())
    return found


def test_a_script_that_fails_because_it_was_restarted_did_not_fail(
    keeper: Keeper, pair: tuple[StandIn, StandIn]
) -> None:
    """Under sysbox each `docker run` fails from then on, long before anybody asks whether the sandbox is well."""
    made = [sandbox.name for sandbox in keeper.ready()]
    job = start(keeper, f"{WAIT}exit 125")
    inside = Path(f"/proc/{min(leased(keeper).processes_at_ready)}/root/tmp/go")
    pair[1].restart()
    inside.touch()
    _, told = job.communicate(timeout=DEADLINE)
    assert (job.returncode, f"the {pair[1].program} that it was started with has ended" in told) == (75, True), told
    keeper.settle()
    assert condemned(keeper) == dict.fromkeys(made, Fault.RUNTIME_LOST)
    assert run_json(keeper, "exit 125")["outcome"] == "script_failed"


def test_a_job_whose_keeper_was_away_meanwhile_is_told_the_same(keeper: Keeper, pair: tuple[StandIn, StandIn]) -> None:
    job = start(keeper, "sleep 600")
    keeper.kill()
    pair[0].restart()
    keeper.restart()
    _, told = job.communicate(timeout=DEADLINE)
    assert job.returncode == 75, told
    assert f"the {pair[0].program} that it was started with has ended" in told
    keeper.settle()


def test_a_job_under_those_that_go_on_outlives_its_keeper(keeper: Keeper) -> None:
    job = start(keeper, f"{WAIT}echo survived")
    inside = Path(f"/proc/{min(leased(keeper).processes_at_ready)}/root/tmp/go")
    keeper.kill()
    keeper.restart()
    inside.touch()
    printed, told = job.communicate(timeout=DEADLINE)
    assert (job.returncode, printed) == (0, "survived\n"), told
