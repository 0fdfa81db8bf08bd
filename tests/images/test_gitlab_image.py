"""The image made from gitlab-runner's own. A program that reports how it was called stands in for gitlab-runner."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import subprocess
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from runner.gitlab import install
from tests.docs.pages import block_of
from tests.docs.reader import Reader
from tests.e2e.test_compose import Installation
from tests.waiting import until

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


def built(client: docker.DockerClient, context: Path, stand_in: str) -> str:
    """Build the image on a base with a stand-in, from a context that has an authority of its own."""
    base = io.BytesIO(stand_in.format(service="sandbox-service:latest").encode())
    client.images.build(fileobj=base, tag=BASE, rm=True)
    for name in ("runner", "images"):
        shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__", "*.crt"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", "/dev/null", "-subj", "/CN=of the test",
         "-out", context / "images" / "ca" / "own.crt"], check=True, capture_output=True,
    )  # fmt: skip
    dockerfile = "images/gitlab/Dockerfile"
    arguments = {"GITLAB_RUNNER_IMAGE": BASE}
    client.images.build(path=str(context), dockerfile=dockerfile, tag=IMAGE, rm=True, forcerm=True, buildargs=arguments)
    return IMAGE


@pytest.fixture(scope="module")
def image(docker_client: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield built(docker_client, tmp_path_factory.mktemp("context"), STAND_IN)
    for name in (IMAGE, BASE):
        docker_client.images.remove(name, force=True)


def test_a_base_whose_python_is_too_old_is_refused_with_a_sentence(
    docker_client: docker.DockerClient, tmp_path: Path
) -> None:
    old = "RUN cd /opt/sandbox-runner/bin && for name in python3 apt-get; do rm -f $name"
    old += ' && printf "#!/bin/sh\\n[ $name != python3 ]\\n" > $name && chmod 755 $name; done\n'
    try:
        with pytest.raises(docker.errors.BuildError) as caught:
            built(docker_client, tmp_path, STAND_IN + old)
        log = "".join(str(line.get("stream", "")) for line in caught.value.build_log)
        assert "which has no Python 3.11. Take one that is made from Ubuntu 24.04" in log
    finally:
        docker_client.images.remove(BASE, force=True)


def test_it_trusts_the_authorities_of_the_build(docker_client: docker.DockerClient, image: str) -> None:
    command = ["-c", "import ssl; print([c['subject'] for c in ssl.create_default_context().get_ca_certs()])"]
    assert "of the test" in docker_client.containers.run(image, command, entrypoint="python3", remove=True).decode()


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


OVERRIDE = f"services: {{gitlab: {{image: {IMAGE}}}}}"
"""The profile on a project of its own, with the stand-in's image."""
JOB = {
    "variables": [{"key": "GIT_STRATEGY", "value": "none", "public": True}],
    "steps": [{"name": "script", "script": ["echo built in $PWD", "docker version --format {{.Server.Os}}"]}],
}


@pytest.fixture
def installation(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path / "run", "sandbox-gitlab-profile-test", 18096)
    override = tmp_path / "gitlab.yaml"
    override.write_text(OVERRIDE)
    made.files = (*made.files, override)
    yield made
    made.compose("--profile", "gitlab", "down", "--volumes")


@pytest.mark.usefixtures("image")
def test_the_profile_as_its_page_has_it_runs_a_job(installation: Installation, tmp_path: Path) -> None:
    """Hooks in one container, the service in another, and gitlab-runner's end told across both; the simulator calls."""
    reader = Reader(tmp_path, installation)
    token = {"/etc/gitlab-token": str(tmp_path / "token")}
    own = {"-o 10001": f"-o {10001 + remapped_by()}", "glrt-…": "glrt-of-the-test"}
    reader.type(block_of("gitlab", "install -m 0400"), {**token, **own})
    reader.type(block_of("gitlab", "export GITLAB_URL"), {**token, "up -d": "up --wait -d"})
    reader.type(block_of("gitlab", "docker compose exec -T gitlab sed"))
    config = "/var/lib/gitlab-runner/config.toml"
    [runner] = tomllib.loads(installation.compose("exec", "-T", "gitlab", "cat", config))["runners"]
    assert (runner["token"], runner["output_limit"]) == ("glrt-of-the-test", 16384)

    program, arguments = runner["custom"]["config_exec"], runner["custom"]["config_args"]
    hooks = [program, *arguments[: arguments.index("config")]]
    job = f"cd /tmp && tar -x && exec python3 -m tests.gitlab.manager job.json -- {shlex.join(hooks)}"
    variable = f"RUNNER_GITLAB_SOCKET={arguments[-1]}"
    ran = subprocess.run(
        [*installation.command, "exec", "-T", "-e", variable, "gitlab", "sh", "-c", job], env=installation.environment,
        input=simulator(), capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    log = ran.stdout.decode()
    assert ran.returncode == 0, log + ran.stderr.decode()
    assert "\nlinux\nJob succeeded\n" in log


def remapped_by() -> int:
    """What the engine adds to the ids in its containers, which its data folder is named by; 0 as in production."""
    first, _, _ = Path(os.environ.get("DOCKER_DATA", "")).name.partition(".")
    return int(first) if first.isdigit() else 0


def simulator() -> bytes:
    """The simulator and its job, as an archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for path in (ROOT / "tests" / "__init__.py", *(ROOT / "tests" / "gitlab").glob("*.py")):
            archive.add(path, path.relative_to(ROOT))
        member = tarfile.TarInfo("job.json")
        content = json.dumps(JOB).encode()
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


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
