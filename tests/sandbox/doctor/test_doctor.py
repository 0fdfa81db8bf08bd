"""`sandbox doctor` on the real engine, with a throw-away sandbox."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from typer.testing import CliRunner

from sandbox.cli import app
from sandbox.errors import ConfigError
from sandbox.template import LABEL_PROFILE
from tests import programs
from tests.e2e.conftest import DEADLINE, NETNS

CANARY = ("canary-login", "canary-docker", "canary-clock", "canary-run", "canary-inspection")


def test_a_good_host_and_nothing_left(
    docker_client: docker.DockerClient, sandbox_runtime: str, sandbox_image: str, tmp_path: Path
) -> None:
    """The profile is this test's alone, so that what is left of its sandbox is found by its label."""
    config = tmp_path / "keeper.toml"
    config.write_text(f'[profiles.doctor-test]\nruntime = "{sandbox_runtime}"\nimage = "{sandbox_image}"\n')
    options = ["--config", str(config), "--canary", "--profile", "doctor-test", "--json"]
    ran = programs.run(programs.sandbox, "doctor", *options, netns=NETNS, timeout=DEADLINE)
    results = {found["check"]: found for found in json.loads(ran.stdout)["checks"]}
    assert ran.returncode == 0, results
    assert [results[name]["status"] for name in ("engine", "storage-driver", "walls", "image")] == ["pass"] * 4
    assert [results[name]["status"] for name in CANARY] == ["pass"] * len(CANARY)
    assert results["runtime"]["status"] == ("pass" if sandbox_runtime == "sysbox-runc" else "warn")
    left: dict[str, str | list[str] | bool] = {"label": f"{LABEL_PROFILE}=doctor-test"}
    assert docker_client.containers.list(all=True, filters=left, ignore_removed=True) == []
    assert docker_client.networks.list(filters=left) == []
    assert docker_client.volumes.list(filters=left) == []


RESTLESS = """
FROM {image}
RUN sed -i '2i python3 -c "import time\\nwhile True: open(\\x27/etc/restless\\x27, \\x27w\\x27); time.sleep(0.05)" &' \
    /usr/local/bin/sandbox-entrypoint
"""


@pytest.fixture
def restless(docker_client: docker.DockerClient, sandbox_image: str) -> Iterator[str]:
    """An image of sandboxes that are fit for use and that no job leaves clean."""
    name = f"restless:{uuid.uuid4().hex[:8]}"
    docker_client.images.build(fileobj=io.BytesIO(RESTLESS.format(image=sandbox_image).encode()), tag=name, rm=True)
    yield name
    docker_client.images.remove(name)


def test_a_host_on_which_every_job_would_cost_its_sandbox(sandbox_runtime: str, restless: str, tmp_path: Path) -> None:
    """The trap: everything works in it, and the service would recreate for ever."""
    config = tmp_path / "keeper.toml"
    config.write_text(f'[profiles.default]\nruntime = "{sandbox_runtime}"\nimage = "{restless}"\n')
    options = ["--config", str(config), "--canary", "--json"]
    ran = programs.run(programs.sandbox, "doctor", *options, netns=NETNS, timeout=DEADLINE)
    results = {found["check"]: found for found in json.loads(ran.stdout)["checks"]}
    assert ran.returncode == 1
    assert [results[name]["status"] for name in CANARY] == ["pass"] * (len(CANARY) - 1) + ["fail"], results
    assert "/etc/restless was" in results["canary-inspection"]["seen"]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"SANDBOX_RUNTIME": "none-such"}, "The engine does not know the runtime none-such"),
        ({"SANDBOX_IMAGE": "none:such"}, "The engine has no image none:such"),
        ({"DOCKER_HOST": "unix:///none/such"}, "No Docker Engine answers"),
    ],
)
def test_what_fails_names_its_fix_and_its_page(environment: dict[str, str], said: str) -> None:
    ran = CliRunner().invoke(app(), ["doctor"], env=environment)
    assert ran.exit_code == 1
    lines = ran.stdout.splitlines()
    [index] = [number for number, line in enumerate(lines) if said in line]
    assert lines[index].startswith("fail ")
    assert "(docs/doctor.md#" in lines[index + 1]


def test_a_wrong_configuration_is_no_finding(tmp_path: Path) -> None:
    (tmp_path / "keeper.toml").write_text("network_range = 7")
    for options in (["--config", str(tmp_path / "keeper.toml")], ["--canary", "--profile", "none"]):
        ran = CliRunner().invoke(app(), ["doctor", *options])
        assert (type(ran.exception), ran.stdout) == (ConfigError, "")
