"""`docker compose up`, and what `down`, `down -v` and `sandbox purge` remove."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from sandbox import places
from sandbox.keeper.client import KeeperClient
from sandbox.network.ruleset import table_name
from sandbox.state import State
from sandbox.template import InstallationId
from tests.e2e.conftest import DEADLINE, RUNNER, SANDBOX, in_network_of_engine, left_of
from tests.waiting import until

ROOT = Path(__file__).parents[2]
PROJECT = "sandbox-compose-test"
# As shipped but for this: it is what `up --wait` waits for, and `start_interval` needs Docker 25.
PATIENCE = """
services:
  keeper: {healthcheck: {interval: 5s}}
  runner: {healthcheck: {interval: 5s}}
"""


class Installation:
    """One `docker compose` project, apart from any other on this host."""

    def __init__(self, run_folder: Path, project: str = PROJECT, port: int = 18099) -> None:
        self.files: tuple[Path, ...] = (ROOT / "compose.yaml", run_folder.with_name("patience.yaml"))
        self.files[-1].write_text(PATIENCE)
        self.socket = run_folder / places.SOCKET_IN_RUN_FOLDER
        self.environment = {
            **os.environ,
            "COMPOSE_PROJECT_NAME": project,
            "SANDBOX_RUN": str(run_folder),
            "SANDBOX_WARM": "1",
            "RUNNER_PORT": str(port),
        }

    @property
    def command(self) -> list[str]:
        """`docker compose`, for this project."""
        program = str(Path(sys.executable).with_name("docker-compose"))
        return [program, "--project-directory", str(ROOT), *(f"--file={file}" for file in self.files)]

    def compose(self, *words: str) -> str:
        result = subprocess.run(
            [*self.command, *words], env=self.environment, capture_output=True, text=True, timeout=2 * DEADLINE,
            check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result.stdout

    def run_here(self, command: list[str], text: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout, as somebody does who has just cloned it."""
        process = self.start_here(command, text, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=DEADLINE)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def start_here(self, command: list[str], text: str, stderr: int | None = None) -> subprocess.Popen[str]:
        """Start one there."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        own = {name: value for name, value in self.environment.items() if not name.startswith("RUNNER_TOKEN")}
        process = subprocess.Popen(
            command, cwd=ROOT, env={**own, "PATH": path}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
            text=True,
        )  # fmt: skip
        assert process.stdin
        process.stdin.write(text)
        process.stdin.close()
        process.stdin = None
        return process

    def up(self) -> None:
        self.compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", str(int(DEADLINE)))


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path / "run")
    yield made
    made.compose("down", "--volumes")


def test_up_run_down_purge(installation: Installation, docker_client: docker.DockerClient) -> None:
    installation.up()
    client = KeeperClient(installation.socket)
    until("a sandbox is ready", lambda: [s for s in client.listing().sandboxes if s.state is State.READY], DEADLINE)
    name = client.listing().installation
    result = subprocess.run(
        [*RUNNER, "run", "--keeper", str(installation.socket), "-"],
        input="docker info >/dev/null && echo works", capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    assert result.stdout == "works\n", result.stderr
    job = installation.run_here(
        [*in_network_of_engine(), *RUNNER, "submit", "--wait", "-"], "script: echo found without settings; exit 3"
    )
    assert (job.stdout, job.returncode) == (
        "found without settings\nrunner: The script failed with exit code 3.\n",
        3,
    ), job.stderr
    assert installation.compose("exec", "-T", "runner", "runner", "ping") == "ready\n"
    assert installation.compose("exec", "-T", "runner", "id", "-u") == "10001\n"
    mounts = {mount["Destination"] for mount in docker_client.containers.get(f"{PROJECT}-runner-1").attrs["Mounts"]}
    assert mounts == {"/run/sandbox/keeper", "/var/lib/runner", "/run/runner", "/etc/runner/runner.toml"}

    # An upgrade as docs/upgrade.md has it: the job and who follows it notice nothing.
    follower = installation.start_here(
        [*in_network_of_engine(), *RUNNER, "submit", "--wait", "-"], "script: echo up; sleep 10; echo end"
    )
    assert follower.stdout
    assert follower.stdout.readline() == "up\n"
    [running] = [s.name for s in client.listing().sandboxes if s.state is State.LEASED and s.attempt]
    installation.compose("kill", "--signal", "USR1", "runner", "keeper")
    installation.compose("stop", "runner", "keeper")
    assert installation.compose("ps", "--quiet", "runner", "keeper") == ""
    assert docker_client.containers.get(running).status == "running"
    installation.up()
    assert (follower.stdout.read(), follower.wait(DEADLINE)) == ("end\nrunner: The script succeeded.\n", 0)
    follower.stdout.close()

    # A killed keeper leaves its sandboxes; the next one removes them, and `down` removes the next one's.
    docker_client.containers.get(f"{PROJECT}-keeper-1").kill()
    assert left_of(docker_client, name) != []
    installation.up()
    until("a new sandbox is ready", lambda: [s for s in client.listing().sandboxes if s.state is State.READY], DEADLINE)
    assert client.listing().installation == name
    installation.compose("down")
    assert left_of(docker_client, name) == []
    assert not walls_of(name)
    assert [path for path in installation.socket.parent.parent.rglob("*") if not path.is_dir()] == []
    assert volumes(docker_client) == {f"{PROJECT}_{name}" for name in ("keeper-state", "runner-state", "gitlab-hooks")}
    installation.compose("down", "--volumes")
    assert volumes(docker_client) == set()


def test_gitlab_is_a_profile_of_its_own(installation: Installation) -> None:
    assert "gitlab" not in installation.compose("config", "--services").split()
    assert "gitlab" in installation.compose("--profile", "gitlab", "config", "--services").split()


def test_purge_removes_what_a_killed_keeper_left(
    installation: Installation, docker_client: docker.DockerClient
) -> None:
    installation.up()
    client = KeeperClient(installation.socket)
    until("a sandbox is ready", lambda: [s for s in client.listing().sandboxes if s.state is State.READY], DEADLINE)
    name = client.listing().installation
    docker_client.containers.get(f"{PROJECT}-keeper-1").kill()
    installation.compose("down", "--volumes")
    assert left_of(docker_client, name) != []
    assert walls_of(name)
    purge = [*in_network_of_engine(), *SANDBOX, "purge", "--installation", name]
    subprocess.run(purge, check=True, timeout=DEADLINE)
    assert left_of(docker_client, name) == []
    assert not walls_of(name)


def walls_of(installation: str) -> bool:
    """Whether the firewall has the table of an installation."""
    tables = subprocess.run(
        [*in_network_of_engine(), "nft", "list", "tables"], capture_output=True, text=True, check=True
    )
    return table_name(InstallationId(installation)) in tables.stdout


def volumes(client: docker.DockerClient, project: str = PROJECT) -> set[str]:
    return {str(v.attrs["Name"]) for v in client.volumes.list() if str(v.attrs["Name"]).startswith(project)}
