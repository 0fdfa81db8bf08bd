"""A real private engine, beside the one that the other tests use. Needs root and a few seconds."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import APIError

from sandbox.evaluation import engine_api, host, packages, private_engine
from sandbox.evaluation.layout import Layout
from tests import engines

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or bool(packages.missing(packages.ENGINE)), reason="needs root, dockerd, iproute2 and iptables"
)

IMAGE = "tiny:latest"


@pytest.fixture(scope="module")
def layout() -> Iterator[Layout]:
    with engines.private("test") as layout:
        yield layout


@pytest.fixture(scope="module")
def client(layout: Layout) -> Iterator[docker.DockerClient]:
    client = docker.DockerClient(base_url=layout.url, version="1.41", timeout=60)
    client.api.import_image_from_data(engines.static_root(), repository="tiny")
    yield client
    client.close()


def test_up_again_finds_it_up(layout: Layout) -> None:
    before = layout.docker_pid.read_text()
    said: list[str] = []
    private_engine.up(layout, said.append)
    assert said == [f"the private engine is up at {layout.url}"]
    assert layout.docker_pid.read_text() == before
    assert private_engine.status(layout).up


def test_a_container_has_a_user_namespace_and_all_capabilities_in_it(client: docker.DockerClient) -> None:
    script = "cat /proc/self/uid_map /proc/self/status"
    printed = client.containers.run(IMAGE, ["/bin/sh", "-c", script], runtime="userns-runc", remove=True).decode()
    inside, outside, _ = printed.splitlines()[0].split()
    assert inside == "0"
    assert int(outside) > 0
    assert "CapEff:\t000001ffffffffff" in printed
    assert "Seccomp:\t2" in printed


def test_a_container_without_user_namespace_is_refused_with_the_reason(client: docker.DockerClient) -> None:
    with pytest.raises(APIError, match="starts none outside a user namespace"):
        client.containers.run(IMAGE, ["/bin/cat"], runtime="userns-runc", userns_mode="host", remove=True)


def test_exec_is_as_capable_as_the_container(client: docker.DockerClient) -> None:
    container = client.containers.run(IMAGE, ["/bin/sleep", "100"], runtime="userns-runc", detach=True)
    _, printed = container.exec_run(["/bin/cat", "/proc/self/status"])
    container.remove(force=True)
    assert b"CapEff:\t000001ffffffffff" in printed


@pytest.mark.parametrize("killed", ["dockerd", "both"])
def test_an_engine_that_was_killed_comes_up_again(layout: Layout, client: docker.DockerClient, killed: str) -> None:
    # It obeys TERM, which the next engine sends it first.
    command = ["/bin/sh", "-c", "trap exit TERM; sleep 100 & wait"]
    container = client.containers.run(IMAGE, command, runtime="userns-runc", detach=True)
    os.kill(int(layout.docker_pid.read_text()), signal.SIGKILL)
    if killed == "both":
        for pid in host.pids_with(str(layout.containerd_toml)):
            os.kill(pid, signal.SIGKILL)
    assert host.wait_until(lambda: not private_engine.status(layout).up, 10)
    private_engine.up(layout, print)
    container.reload()
    assert container.status == "exited"
    container.remove()
    assert len(host.pids_with(str(layout.containerd_toml))) == 1


def test_down_takes_everything_back_even_after_a_kill(layout: Layout, client: docker.DockerClient) -> None:
    client.containers.run(IMAGE, ["/bin/sleep", "100"], runtime="userns-runc", detach=True)
    os.kill(int(layout.docker_pid.read_text()), signal.SIGKILL)
    private_engine.down(layout, print)
    assert host.pids_with(str(layout.containerd_socket)) == host.pids_with(str(layout.containerd_toml)) == []
    assert not layout.run.exists()
    assert not layout.netns_file.exists()
    assert layout.host_link not in host.run("ip", "link")
    assert str(layout.link) not in host.run("iptables", "-t", "nat", "-S")
    private_engine.down(layout, print)

    private_engine.up(layout, print)
    assert engine_api.has_image(layout.url, IMAGE), "images survive `down`"


def test_a_pid_file_that_names_another_process_is_not_believed(layout: Layout) -> None:
    private_engine.down(layout, print)
    layout.run.mkdir()
    layout.docker_pid.write_text("1\n")
    private_engine.up(layout, print)
    assert private_engine.status(layout).up


def test_status_of_one_that_is_down(tmp_path: Path) -> None:
    found = private_engine.status(Layout(tmp_path / "state", tmp_path / "run"))
    assert not found.up
    assert "sandbox evaluation up" in found.detail
    said: list[str] = []
    private_engine.down(Layout(tmp_path / "state", tmp_path / "run"), said.append)
    assert said == ["there is no private engine here"]
