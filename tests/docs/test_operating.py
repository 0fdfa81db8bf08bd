"""The pages for operators, typed in where a service runs; and for every other block, the reason why it is not run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import ROOT, Block, block_of, blocks, commands
from tests.docs.reader import Reader
from tests.e2e.conftest import DEADLINE, in_network_of_engine
from tests.e2e.test_compose import Installation
from tests.waiting import until

PROJECT: Final = "sandbox-operating-test"
PORT: Final = 18097
HERE: Final = {"localhost:8080": f"localhost:{PORT}"}

_BY_HAND: Final = "tests/images types the same against the image, with keys and ports of its own"
_ADHOC: Final = "tests/e2e/test_adhoc.py runs each of these commands, with a terminal where one is shown"
_REGISTRY: Final = "test_registry types it, with Debian's registry"
_ARCHITECTURES: Final = "test_architectures types it, where an emulator and a registry are"
_GITLAB: Final = "tests/images/test_gitlab_image.py types it, with a stand-in for gitlab-runner's own image"
_SYSTEMD: Final = "test_systemd types it, in a machine of its own"
_INSTALL: Final = "test_install types it, in a machine of its own, with a package that stands in for sysbox's"
_EVALUATION: Final = "test_evaluation types it, in a machine of its own"
ELSEWHERE: Final = {
    ("README", "make demo"): "test_demo types it",
    ("README", "docker compose up -d"): "test_tutorial types it",
    ("README", "docker compose exec -T runner runner run"): "test_tutorial types it",
    ("README", "sandbox run -- docker version"): _ADHOC,
    ("README", "docker run -d --name box"): _BY_HAND,
    ("README", "ssh-keyscan"): "tests/e2e/test_addresses.py",
    ("README", "export GITLAB_URL"): _GITLAB,
    ("README", "make test"): "this is it",
    ("foreign-sandboxes", "# whoever has Docker"): "tests/e2e/test_addresses.py",
    ("gitlab", "install -m 0400"): _GITLAB,
    ("gitlab", "export GITLAB_URL"): _GITLAB,
    ("gitlab", "docker compose exec -T gitlab sed"): _GITLAB,
    ("gitlab", "install -d /etc/systemd"): _SYSTEMD,
    ("install", "install -d /etc/docker"): _INSTALL,
    ("install", "apt-get update"): _INSTALL,
    ("install", "curl -fLO"): _INSTALL,
    ("install", "docker compose up -d"): "test_tutorial types it",
    ("install", "docker compose exec -T runner runner run"): "test_tutorial types it",
    ("mirrors", "docker run -d --name mirror"): _REGISTRY,
    ("own-images", "docker build -t our-sandbox"): "tests/images/test_contract.py",
    ("own-images", "docker pull"): _REGISTRY,
    ("own-images", "sandbox images build --tag sandbox:latest"): "tests/images/test_build.py",
    ("own-images", "sandbox images build --tag registry.example/team"): _REGISTRY,
    ("own-images", "apt-get install -y qemu-user-static"): _ARCHITECTURES,
    ("own-images", "sandbox images build --platform"): _ARCHITECTURES,
    ("sandbox-command", "sandbox run docker run"): _ADHOC,
    ("sandbox-command", "sandbox ssh-config"): "test_editors types it",
    ("sandbox-image", "sandbox images build"): _BY_HAND,
    ("sandbox-image", "export DOCKER_HOST"): _BY_HAND,
    ("systemd", "apt-get install"): _SYSTEMD,
    ("upgrade", "python3 -m venv"): _SYSTEMD,
    ("userns-runc", "sandbox evaluation up"): _EVALUATION,
    ("userns-runc", "sandbox evaluation down"): _EVALUATION,
    ("userns-runc", "cp sandbox/evaluation"): _SYSTEMD,
}
"""Why a block is not typed in by a test, by the page and the beginning of its first line."""


class Operator(Reader):
    """A reader who remembers what was typed in."""

    typed: set[Block]

    def page(
        self, page: str, beginning: str, replacing: dict[str, str] | None = None, codes: tuple[int, ...] = (0,)
    ) -> str:
        block = block_of(page, beginning)
        self.typed.add(block)
        return self.type(block, replacing, codes)

    def services(self, page: str, beginning: str) -> list[list[str]]:
        """The words of a block whose commands go on until they are ended."""
        block = block_of(page, beginning)
        self.typed.add(block)
        return list(commands(block))


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    """One beside a running service, whose commands find it."""
    installation = Installation(tmp_path / "run", PROJECT, PORT)
    installation.environment |= {"RUNNER_LOG_FORMAT": "json", "SANDBOX_LOG_FORMAT": "json"}
    try:
        installation.up()
        made = Operator(tmp_path, installation)
        made.typed = set()
        token = installation.compose("exec", "-T", "runner", "cat", "/var/lib/runner/token").strip()
        made.environment |= {
            "RUNNER_URL": f"http://127.0.0.1:{PORT}",
            "RUNNER_TOKEN": token,
            "RUNNER_KEEPER": str(installation.socket),
            "SANDBOX_KEEPER": str(installation.socket),
            "token": token,
        }
        yield made
    finally:
        installation.compose("down", "--volumes")


@pytest.mark.timeout(900)
def test_the_operators_pages_work_as_written(operator: Operator) -> None:
    for name in ("runner.toml", "keeper.toml"):
        (operator.folder / name).write_text((operator.folder / "examples" / name).read_text())
    the_ways_in_of_the_readme(operator)
    files_for_others(operator)
    images_for_a_host_without_internet(operator)
    who_asks(operator)
    what_is_set_and_whether_all_is_well(operator)
    services_without_compose(operator)
    an_upgrade_and_the_end(operator)
    left = [block for block in blocks("sh") if block not in operator.typed and block.page.stem != "tutorial"]
    assert [str(block) for block in left if not elsewhere(block)] == []


def the_ways_in_of_the_readme(operator: Operator) -> None:
    page, here = operator.page, {".venv/bin/": ""}
    assert "Hello from a container in the sandbox" in page("README", "make install", {"make install": "true", **here})
    assert "Server:" in page("README", "printf 'script", here)
    page("image-refresh", "docker compose build")  # nothing new, so what is there already


def files_for_others(operator: Operator) -> None:
    page, folder = operator.page, operator.folder
    shutil.copytree(ROOT / "examples" / "monitoring", folder / "monitoring")
    (folder / "monitoring" / "token").touch()
    checked = {"config prometheus.yml": "config monitoring/prometheus.yml", "prometheus --": "true --"}
    assert "SUCCESS" in page("monitoring", "promtool check config", checked)
    (folder / "gitlab-token").write_text("glrt-of-the-test")
    own = {"/etc/gitlab-token": f"{folder}/gitlab-token", "/etc/gitlab-runner/config.toml": f"{folder}/config.toml"}
    assert "[[runners]]" in page("gitlab", "runner gitlab install", own)


def images_for_a_host_without_internet(operator: Operator) -> None:
    """A small one in place of ours, which take minutes to pack."""
    page, own = operator.page, f"{PROJECT}:saved"
    typed(operator, f"tar --create --dereference examples | docker import - {own}")
    try:
        page(
            "proxy",
            "docker compose build",
            {"docker compose build": "true", "sandbox:latest sandbox-service:latest": own},
        )
        typed(operator, f"docker image rm {own}")
        assert f"Loaded image: {own}" in page("proxy", "gunzip")
    finally:
        typed(operator, f"docker image rm --force {own}")


def who_asks(operator: Operator) -> None:
    page = operator.page
    assert '"submitted"' in page("api", "curl", HERE)
    assert page("monitoring", "runner token create").strip()
    shown = page("lock-down", "docker compose exec -T runner runner token")
    [token] = re.findall(r"^([0-9a-f]{8}) +prometheus ", shown, re.MULTILINE)
    assert "ci " in page("api", "runner token create", {"5d41402a": token})


def what_is_set_and_whether_all_is_well(operator: Operator) -> None:
    page = operator.page
    assert "warm" in page("configuration", "runner config check")
    page("configuration", "kill -HUP")
    until("HUP came", lambda: "the configuration was read anew" in typed(operator, "docker compose logs keeper"))
    # The runtime of these tests is told as a warning, and a fresh volume's clock or disk as not checked.
    assert "runtime" in page("doctor", "sandbox doctor", {"/etc/sandbox/keeper.toml": "keeper.toml"}, codes=(0, 1))
    assert "canary" in page("install", "docker compose exec -T keeper sandbox doctor", codes=(0, 1))
    assert "storage-driver" in page("install", "docker compose logs", codes=(0, 1))
    assert "canary" in page("runner-doctor", "runner doctor", codes=(0, 1))
    [sandbox, *_] = re.findall(r"sandbox-[0-9a-f]{8}-\d+", page("runbook", "curl -s", HERE, codes=(0, 1)))
    told = page("logs", "docker compose logs", {"sandbox-1a2b3c4d-7": sandbox}).splitlines()
    assert {json.loads(line)["sandbox"] for line in told} == {sandbox}
    assert "refused_" in page("network", "nft list counters")


def services_without_compose(operator: Operator) -> None:
    """Both by their own commands, beside those of compose; the keeper leaves a sandbox, which is purged."""
    folder = operator.folder
    operator.environment |= {"RUNNER_STATE": f"{folder}/state", "RUNNER_API_LISTEN": f"127.0.0.1:{PORT + 100}"}
    operator.environment |= {"SANDBOX_HOME": f"{folder}/home", "SANDBOX_RUN_FOLDER": f"{folder}/by-hand"}
    runner, keeper = operator.services("logs", "runner serve --log-format json")
    assert logged(operator, runner, "serving", signal.SIGTERM)[-1]["level"] == "info"
    [cached] = operator.services("gitlab-cache", "runner serve")
    own = {"…": f"{folder}/hooks", "/var/lib/runner/gitlab-cache": f"{folder}/caches"}
    logged(operator, [own.get(word, word) for word in cached], "serving", signal.SIGTERM)
    assert (folder / "caches").is_dir()

    [ready, *_] = [told for told in logged(operator, keeper, "ready", signal.SIGUSR1) if told["action"] == "ready"]
    there = f"docker ps --quiet --filter name={ready['sandbox']}"
    assert typed(operator, there)
    purged = {
        "--all": f"--installation {(folder / 'home' / 'installation').read_text().strip()}",
        "/var/run/docker.sock:": f"{os.environ.get('DOCKER_SOCKET', '/var/run/docker.sock')}:",
    }
    assert "Removed" in operator.page("uninstall", "docker run --rm", purged)
    assert not typed(operator, there)


def logged(operator: Operator, words: list[str], action: str, end: signal.Signals) -> list[dict[str, str]]:
    """What a service logs that is ended once it has logged an action."""
    log = operator.folder / "service.log"
    with (
        log.open("w") as file,
        subprocess.Popen([*in_network_of_engine(), *words], env=operator.environment, stderr=file) as service,
    ):
        try:
            until(f"{words[0]} logs {action}", lambda: f'"{action}"' in log.read_text() or service.poll(), DEADLINE)
        except BaseException:
            service.terminate()
            raise
        service.send_signal(end)
    assert service.returncode == 0, log.read_text()
    return [json.loads(line) for line in log.read_text().splitlines()]


def an_upgrade_and_the_end(operator: Operator) -> None:
    page, folder = operator.page, operator.folder
    page(
        "upgrade",
        "runner backup",
        {"runner backup …": "true", "git pull && docker compose build": "true", "up -d": "up -d --no-build --wait"},
    )
    on_host = {"runner backup /backups": f"runner backup --state {state_of(operator)} {folder}"}
    assert page("backup", "runner backup", on_host).count("Backed up") == 2
    again = {"sandbox-runner_runner-state": f"{PROJECT}_runner-state", "up -d": "up -d --no-build --wait"}
    assert "Restored the state" in page("backup", "docker compose rm", again)
    keeping = {"docker image rm": "true", "rm -rf /run/sandbox": "true"}
    page("uninstall", "runner drain", keeping)
    copies = {
        "/backups/runner-2026-01-31.backup": f"{folder}/runner-*.backup",
        "/var/lib/runner": f"{folder}/restored",
    }
    assert "Restored the state" in page("backup", "runner restore", copies)
    assert "nothing of an installation 00000000" in page("uninstall", "sandbox purge", {"ID": "00000000"}, (66,))


def elsewhere(block: Block) -> bool:
    """Whether it is said where a block is typed in, or why not."""
    return any(block.page.stem == page and block.text.startswith(beginning) for page, beginning in ELSEWHERE)


def test_what_is_typed_in_elsewhere_is_still_shown() -> None:
    for page, beginning in ELSEWHERE:
        assert [b for b in blocks("sh") if b.page.stem == page and b.text.startswith(beginning)], (page, beginning)


def state_of(operator: Operator) -> str:
    """Where the service's state is on this host."""
    return typed(operator, f"docker volume inspect -f '{{{{.Mountpoint}}}}' {PROJECT}_runner-state").strip()


def typed(operator: Operator, text: str) -> str:
    """What comes of words that are on no page."""
    return operator.type(Block(Path(__file__), 0, "sh", text))
