"""The image made from gitlab-runner's own. A program that tells how it was called stands in for gitlab-runner."""

from __future__ import annotations

import io
import tomllib
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from runner.gitlab import install
from tests.e2e.conftest import until

ROOT = Path(__file__).parents[2]
BASE, IMAGE = "sandbox-gitlab-test-base", "sandbox-gitlab-test"
STAND_IN = """\
FROM {service}
USER root
RUN printf '%s\\n' '#!/bin/sh' 'trap "echo drained; exit 0" QUIT' 'echo "called with $*"' \
        'env' 'echo ready' 'while :; do sleep 0.1; done' > /usr/local/bin/gitlab-runner \
    && chmod 755 /usr/local/bin/gitlab-runner
"""
SETTINGS = {"GITLAB_URL": "https://gitlab.example.com", "RUNNER_NAME": "of the test", "CONCURRENCY": "3"}


@pytest.fixture(scope="module")
def image(docker_client: docker.DockerClient) -> Iterator[str]:
    stand_in = io.BytesIO(STAND_IN.format(service="sandbox-service:latest").encode())
    docker_client.images.build(fileobj=stand_in, tag=BASE, rm=True)
    docker_client.images.build(
        path=str(ROOT),
        dockerfile="images/gitlab/Dockerfile",
        tag=IMAGE,
        rm=True,
        buildargs={"GITLAB_RUNNER_IMAGE": BASE},
    )
    yield IMAGE
    for name in (IMAGE, BASE):
        docker_client.images.remove(name, force=True)


def started(client: docker.DockerClient, image: str, environment: dict[str, str]) -> Container:
    return client.containers.run(
        image, environment=environment, detach=True, read_only=True, cap_drop=["ALL"], network_mode="none",
        tmpfs={"/tmp": ""}, volumes=["/var/lib/gitlab-runner", "/run/runner"],
    )  # fmt: skip


def test_it_becomes_a_configured_gitlab_runner_and_drains(docker_client: docker.DockerClient, image: str) -> None:
    container = started(docker_client, image, {**SETTINGS, "GITLAB_TOKEN": "glrt-secret"})
    try:
        until("gitlab-runner was called", lambda: b"\nready\n" in container.logs())
        log = container.logs().decode()
        assert log.startswith("called with run --config /var/lib/gitlab-runner/config.toml\n")
        assert "glrt-secret" not in log

        document = tomllib.loads(output(container, "cat", "/var/lib/gitlab-runner/config.toml"))
        assert install.check(document, warm=3) == []
        [runner] = document["runners"]
        assert (runner["name"], runner["token"], runner["limit"]) == ("of the test", "glrt-secret", 3)
        assert output(container, "stat", "-c", "%a %u", "/var/lib/gitlab-runner/config.toml") == "600 10001\n"
        assert output(container, "cmp", "/usr/local/bin/gitlab-runner", "/run/runner/gitlab-runner") == ""
        custom = runner["custom"]
        hook = container.exec_run(
            [custom["cleanup_exec"], *custom["cleanup_args"]], environment={"JOB_RESPONSE_FILE": "/"}
        )
        assert (hook.exit_code, hook.output) == (2, b"runner: The file / cannot be read: Is a directory.\n")

        container.stop()
        assert container.logs().endswith(b"drained\n")
    finally:
        container.remove(force=True, v=True)


def test_what_is_missing_is_said(docker_client: docker.DockerClient, image: str) -> None:
    container = started(docker_client, image, {"GITLAB_URL": "https://gitlab.example.com"})
    try:
        assert container.wait(timeout=60)["StatusCode"] == 1
        assert b"GITLAB_TOKEN_FILE or GITLAB_TOKEN" in container.logs()
    finally:
        container.remove(force=True, v=True)


def output(container: Container, *command: str) -> str:
    result = container.exec_run(list(command))
    assert isinstance(result.output, bytes)
    assert result.exit_code == 0, result.output
    return result.output.decode()
