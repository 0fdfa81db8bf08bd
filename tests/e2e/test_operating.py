"""The operator's view: walls that are flushed, an engine that hangs, a sandbox to look at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.health import HostState
from sandbox.network.ruleset import table_name
from sandbox.state import State
from sandbox.template import InstallationId
from tests import programs
from tests.e2e.conftest import Keeper, in_network_of_engine, run, run_json, start
from tests.faults.engine_proxy import EngineProxy, Hold
from tests.waiting import until


def sandbox_command(keeper: Keeper, *words: str) -> subprocess.CompletedProcess[str]:
    return programs.run(programs.sandbox, words[0], "--keeper", str(keeper.socket), *words[1:])


def nft(*words: str) -> str:
    done = subprocess.run([*in_network_of_engine(), "nft", *words], capture_output=True, text=True, check=False)
    return done.stdout


# -- walls ------------------------------------------------------------------------------------------------------------


def test_walls_that_are_flushed_are_back_within_seconds_and_nothing_is_lent_before(keeper: Keeper) -> None:
    table = table_name(InstallationId(keeper.client.listing().installation))
    assert "drop" in nft("list", "table", "inet", table)
    nft("delete", "table", "inet", table)
    # The next lend does not wait for the next look: it puts them back itself.
    assert run(keeper, "true").returncode == 0
    assert "drop" in nft("list", "table", "inet", table)
    nft("flush", "table", "inet", table)
    until("they are back", lambda: "drop" in nft("list", "table", "inet", table), 5.0)
    assert "somebody had removed or changed the walls" in keeper.log


def test_a_job_does_not_reach_the_gateway_and_it_is_counted(keeper: Keeper) -> None:
    script = """\
gateway=$(ip route show default | cut -d ' ' -f 3)
timeout 1 bash -c "echo > /dev/tcp/$gateway/80" 2>/dev/null && echo reached || echo refused
"""
    assert run(keeper, script).stdout == "refused\n"
    table = table_name(InstallationId(keeper.client.listing().installation))
    counters = json.loads(nft("-j", "list", "counters", "table", "inet", table))["nftables"]
    refused = {c["counter"]["name"]: c["counter"]["packets"] for c in counters if "counter" in c}
    assert refused["refused_host"] > 0


def test_a_network_is_closed_while_a_job_runs_and_the_job_goes_on(new_keeper: Callable[..., Keeper]) -> None:
    """The gateway is opened by name, and then `none` closes it again, on HUP and without recreating."""
    text = """\
[openings.gateway]
to = ["10.213.0.0/16"]
[profiles.default]
{profile}
"""
    keeper = new_keeper(warm=1, config=text.format(profile='open = ["gateway"]'))
    keeper.start()
    [before] = keeper.ready()
    job = start(keeper, "echo waiting; sleep 600")
    assert job.stdout is not None
    assert job.stdout.readline() == "waiting\n"
    (keeper.folder / "keeper.toml").write_text(text.format(profile='network = "none"'))
    assert keeper.process is not None
    keeper.process.send_signal(signal.SIGHUP)
    until("it was read", lambda: "the configuration was read anew" in keeper.log)
    table = table_name(InstallationId(keeper.client.listing().installation))
    until("the policy is another", lambda: "refused_none" in nft("list", "table", "inet", table), 5.0)
    [same] = keeper.client.listing().sandboxes
    assert (same.name, same.state) == (before.name, State.LEASED)
    (keeper.folder / "keeper.toml").write_text("profiles = 3")
    keeper.process.send_signal(signal.SIGHUP)
    until("it was refused", lambda: "was left as it was" in keeper.log)
    job.send_signal(signal.SIGINT)
    job.communicate(timeout=30)
    assert job.returncode == 130
    keeper.stop()


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_term_waits_for_jobs_as_long_as_the_file_says(new_keeper: Callable[..., Keeper]) -> None:
    keeper = new_keeper(warm=1, config="patience = 1\n")
    keeper.start()
    job = start(keeper, "echo waiting; sleep 600")
    assert job.stdout is not None
    assert job.stdout.readline() == "waiting\n"
    assert keeper.process is not None
    keeper.process.send_signal(signal.SIGTERM)
    assert keeper.process.wait(60) == 0  # by default it takes five minutes
    assert "waiting for 1 running jobs" in keeper.log
    assert "left 1 sandboxes with jobs for the next keeper" in keeper.log
    keeper.restart()
    job.send_signal(signal.SIGINT)
    job.communicate(timeout=30)
    assert job.returncode == 130
    keeper.stop()


# -- an engine that hangs ---------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[EngineProxy]:
    engine = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    with EngineProxy(tmp_path / "engine.sock", engine) as made:
        yield made


def test_an_engine_that_hangs_is_told_within_a_minute_and_service_resumes_by_itself(
    new_keeper: Callable[..., Keeper], proxy: EngineProxy
) -> None:
    keeper = new_keeper(warm=1, engine=proxy.url)
    keeper.start()
    held = proxy.misbehave("GET /containers/json", Hold())
    until("it is noticed", lambda: keeper.client.listing().host is HostState.WEDGED, 60.0)
    pong = keeper.client.ping()
    assert not pong.fit
    assert "The host: its Docker Engine has answered nothing" in pong.message
    refused = run_json(keeper, "true", "--wait", "0")
    assert refused["outcome"] == "setup_failed"
    assert "its Docker Engine has answered nothing" in str(refused["message"])
    assert len(keeper.log.splitlines()) < 20  # nothing loops
    held.release()
    proxy.clear()
    until("it is well again", lambda: keeper.client.listing().host is HostState.WELL, 60.0)
    assert run(keeper, "echo works").stdout == "works\n"
    keeper.stop()


# -- a sandbox to look at ---------------------------------------------------------------------------------------------


def test_a_sandbox_is_held_entered_looked_at_and_released(keeper: Keeper) -> None:
    job = start(keeper, "echo planted > ~/evidence; sudo touch /etc/planted; echo done; sleep 600")
    assert job.stdout is not None
    assert job.stdout.readline() == "done\n"
    [name] = [s.name for s in keeper.client.listing().sandboxes if s.state is State.LEASED]
    held = sandbox_command(keeper, "hold", name)
    assert (held.returncode, held.stdout.split()[:3]) == (0, [name, "is", "held"]), held.stderr
    job.send_signal(signal.SIGINT)
    job.communicate(timeout=30)
    assert job.returncode == 130
    until("it is held", lambda: name in {s.name for s in keeper.client.listing().sandboxes if s.state is State.HELD})
    inside = sandbox_command(keeper, "shell", name, "cat", "evidence")
    assert (inside.returncode, inside.stdout) == (0, "planted\n"), inside.stderr
    assert sandbox_command(keeper, "shell", name, "exit 7").returncode == 7
    looked = sandbox_command(keeper, "inspect", name)
    assert "verdict: used" in looked.stdout
    assert "/etc/planted" in looked.stdout
    released = sandbox_command(keeper, "release", name)
    assert released.returncode == 0, released.stderr
    until("it is gone", lambda: name not in {s.name for s in keeper.client.listing().sandboxes})
    assert "hold-over" in sandbox_command(keeper, "inspect", name).stdout


def test_only_a_held_sandbox_can_be_entered(keeper: Keeper) -> None:
    [name, *_] = [sandbox.name for sandbox in keeper.ready()]
    refused = sandbox_command(keeper, "shell", name)
    assert refused.returncode == 69
    assert refused.stderr == f"sandbox: Sandbox {name} is ready and not held; hold it first: sandbox hold {name}.\n"
