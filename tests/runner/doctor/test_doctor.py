"""`runner doctor` on a real service without a keeper, and the facts that it gathers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runner.cli import app
from runner.config.load import load
from runner.doctor import gather
from runner.keeper_leases import KeeperState
from sandbox.health import HostState
from sandbox.report import Found, Unknown
from tests.runner.api.test_server import certified
from tests.runner.config.test_commands import Running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("service")
    (folder / "runner.toml").touch()
    service = Running(folder / "runner.toml")
    yield service
    service.stop()


def doctor(*options: str, **environment: str) -> tuple[int, dict[str, dict[str, str]]]:
    no_docker = {"DOCKER_HOST": "unix:///none/such"}
    ran = CliRunner().invoke(app(), ["doctor", "--json", *options], env=no_docker | environment)
    assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
    return ran.exit_code, {one["check"]: one for one in json.loads(ran.stdout)["checks"]}


def test_a_service_without_a_keeper_says_so_and_so_does_its_api(running: Running) -> None:
    folder = running.log.parent
    options = ["--state", str(folder / "state"), "--listen", running.address, "--keeper", str(folder / "none")]
    code, found = doctor(*options)
    assert code == 1
    assert [name for name, one in found.items() if one["status"] == "fail"] == ["keeper", "api"]
    assert found["api"]["seen"].startswith("The service answers: ")
    assert [found[name]["status"] for name in ("configuration", "state-disk", "store")] == ["pass"] * 3
    assert [found[name]["status"] for name in ("pool", "canary-job", "host")] == ["not-checked"] * 3
    assert "There is no keeper socket at" in found["keeper"]["seen"]
    assert "There is no Docker socket for us at /none/such." in found["host"]["seen"]


def test_a_service_with_a_certificate_is_reached_and_another_one_is_not_it(tmp_path: Path) -> None:
    """The certificate is for another name, as a service's mostly is on its own host."""
    (tmp_path / "other").mkdir()
    ours, other = certified(tmp_path), certified(tmp_path / "other")
    file = tmp_path / "runner.toml"
    file.write_text(f'[tls]\ncertificate = "{ours.certificate}"\nkey = "{ours.key}"\n')
    service = Running(file, "https")
    try:
        _, found = doctor("--config", str(file), "--listen", service.address, "--state", str(tmp_path / "state"))
        assert found["api"]["seen"].startswith("The service answers: ")
        options = ["--tls-certificate", str(other.certificate), "--tls-key", str(other.key)]
        _, found = doctor(*options, "--listen", service.address, "--state", str(tmp_path / "state"))
        assert "CERTIFICATE_VERIFY_FAILED" in found["api"]["seen"]
    finally:
        service.stop()


def test_nothing_there_is_told_check_by_check(tmp_path: Path) -> None:
    code, found = doctor("--state", str(tmp_path / "none"), "--listen", "127.0.0.1:1", "--canary")
    assert code == 1
    assert found["state-disk"]["status"] == found["api"]["status"] == "fail"
    assert found["store"]["status"] == "not-checked"
    assert "No service answers at http://127.0.0.1:1" in found["api"]["seen"]
    assert found["canary-job"]["status"] == "not-checked"


def test_a_wrong_configuration_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "runner.toml").write_text("[jobs]\nslots = 0\n")
    code, found = doctor("--config", str(tmp_path / "runner.toml"))
    assert (code, found["configuration"]["status"]) == (1, "fail")
    assert f"{tmp_path}/runner.toml:2: jobs.slots" in found["configuration"]["seen"]


def test_for_people_a_failure_has_its_fix_and_page_below(tmp_path: Path) -> None:
    ran = CliRunner().invoke(app(), ["doctor", "--state", str(tmp_path)], env={"DOCKER_HOST": "unix:///none/such"})
    lines = ran.stdout.splitlines()
    [index] = [number for number, line in enumerate(lines) if line.startswith("fail         keeper ")]
    assert "(docs/runner-doctor.md#keeper)" in lines[index + 1]


def test_what_hangs_is_left_behind() -> None:
    forever = threading.Event()
    began = time.monotonic()
    assert gather._told(forever.wait, 0.2) == Unknown("It could not be found out within 0 s.")
    assert time.monotonic() - began < 10
    forever.set()


@pytest.mark.parametrize("error", [OSError("no"), ValueError("no"), KeyError("no")])
def test_what_fails_is_unknown(error: Exception) -> None:
    def fail() -> str:
        raise error

    assert isinstance(gather._told(fail), Unknown)


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("[::]:80", "http://[::1]:80"),
        ("192.0.2.1:1", "http://192.0.2.1:1"),
    ],
)
def test_where_a_service_is_asked(listen: str, url: str) -> None:
    assert gather.url_of(load(None, {}, {("api", "listen"): listen}).config) == url


def test_the_kernel_tells_about_its_clock() -> None:
    found = gather._clock()
    assert abs(found.now - time.time()) < 10
    assert isinstance(found.synchronised, bool)


def test_a_doctor_of_the_host_that_says_nothing_readable_is_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "socket").touch()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/socket")
    (tmp_path / "bad.toml").write_text("x = 1")
    found = gather._told(lambda: gather._host(tmp_path / "bad.toml"))
    assert isinstance(found, Unknown)
    assert "`sandbox doctor` failed: sandbox: The keeper's configuration is wrong" in found.why


def test_the_hosts_own_checks_are_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a socket that nobody listens on: what fails then is told as it was told there."""
    (tmp_path / "socket").touch()
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/socket")
    found = gather._told(lambda: gather._host(None), 120.0)
    assert isinstance(found, tuple)
    assert isinstance(found[0], Found)
    assert (found[0].check, found[0].result.status, found[0].page) == ("engine", "fail", "docs/doctor.md#engine")


def test_a_sandbox_that_is_only_looked_at_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = KeeperState(HostState.WELL, "", {}, {"default": 1})
    ready = replace(looked_at, ready={"default": 1})
    states = iter([looked_at, looked_at, ready])
    monkeypatch.setattr(gather, "_PAUSE", 0.0)
    monkeypatch.setattr(gather, "look_at", lambda _: next(states))
    assert gather._keeper(tmp_path) == ready


@pytest.mark.parametrize("made", [{}, {"default": 1}])
def test_a_pool_in_which_nothing_becomes_ready_is_told_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: dict[str, int]
) -> None:
    state = KeeperState(HostState.WELL, "", {}, made)
    monkeypatch.setattr(gather, "_LOOKED_AT", 0.0)
    monkeypatch.setattr(gather, "look_at", lambda _: state)
    assert gather._keeper(tmp_path) == state
