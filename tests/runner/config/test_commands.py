"""`runner config`, and a running service that reads its settings anew."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from runner.cli import app
from runner.errors import ConfigError
from tests import programs
from tests.waiting import until
from tests.web import answers

TOKEN = "a-token-of-the-operator's-own"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    path = tmp_path / "runner.toml"
    path.write_text('[jobs]\nslots = 3\n[api]\ntoken_file = "token"\n'.replace('"token"', f'"{tmp_path / "token"}"'))
    return path


def test_show_says_where_each_value_comes_from_and_hides_secrets(file: Path) -> None:
    options = ["config", "show", str(file), "--json"]
    ran = CliRunner().invoke(app(), options, env={"RUNNER_JOBS_LABELS": "gpu big"})
    shown = {one.pop("setting"): one for one in json.loads(ran.stdout)["settings"]}
    assert shown["jobs.slots"] == {"value": 3, "source": "file", "place": f"{file}:2", "live": True}
    assert shown["jobs.labels"]["value"] == ["gpu", "big"]
    assert shown["jobs.labels"]["place"] == "RUNNER_JOBS_LABELS"
    assert shown["api.token"] == {"value": "(hidden)", "source": "file", "place": f"{file}:4", "live": False}
    assert shown["state"] == {"value": "/var/lib/runner", "source": "default", "place": "default", "live": False}
    assert TOKEN not in ran.output + CliRunner().invoke(app(), options[:-1]).output


def test_an_address_that_may_have_a_password_in_it_is_shown_to_nobody(tmp_path: Path) -> None:
    signing = f"whsec_{base64.b64encode(bytes(32)).decode()}"
    given = {"RUNNER_WEBHOOKS_URLS": "https://a.example/passw0rd https://b.example/", "RUNNER_WEBHOOKS_SECRET": signing}
    for options in (["config", "show"], ["config", "show", "--json"]):
        ran = CliRunner().invoke(app(), options, env=given)
        assert (ran.exit_code, ran.output.count("(hidden)"), "passw0rd" in ran.output) == (0, 3, False)
    (tmp_path / "urls").write_text("https://a.example/\nhttps://me:passw0rd@b.example/\n")
    for name, value, number in (
        ("RUNNER_WEBHOOKS_URLS", "https://me:passw0rd@a.example/", 0),
        ("RUNNER_WEBHOOKS_URLS_FILE", str(tmp_path / "urls"), 1),
    ):
        refused = programs.run(programs.runner, "config", "check", environment={**os.environ, name: value})
        assert refused.returncode == 78
        assert f"{name}: webhooks.urls.{number}: must be an address" in refused.stderr
        assert "passw0rd" not in refused.stderr


def test_check_tells_every_mistake_and_never_a_secret(file: Path) -> None:
    assert CliRunner().invoke(app(), ["config", "check", str(file)]).exit_code == 0
    file.write_text('[jobs]\nslot = 3\n[api]\ntoken = "too short"\ntokn = "another secret"\n')
    ran = programs.run(programs.runner, "config", "check", str(file))
    assert (ran.returncode, ran.stdout) == (78, "")
    assert ran.stderr.splitlines() == [
        "runner: The configuration is wrong:",
        f"  {file}:4: api.token: must have at least 16 characters.",
        f"  {file}:5: api.tokn: there is no such setting. Did you mean token?",
        f"  {file}:2: jobs.slot: there is no such setting. Did you mean slots?",
    ]


def test_check_finds_the_files_that_the_service_reads_at_its_start(file: Path) -> None:
    file.write_text('[tls]\ncertificate = "/none/tls.crt"\nkey = "/none/tls.key"\n')
    for words in (["config", "check", str(file)], ["serve", "--config", str(file)]):
        ran = programs.run(programs.runner, *words)
        assert (ran.returncode, ran.stderr.splitlines()) == (
            78,
            [
                "runner: The configuration is wrong:",
                f"  {file}:2: tls.certificate: the file /none/tls.crt cannot be read: No such file or directory.",
                f"  {file}:3: tls.key: the file /none/tls.key cannot be read: No such file or directory.",
            ],
        )


def test_a_variable_that_has_no_effect_is_told() -> None:
    ran = CliRunner().invoke(app(), ["config", "check"], env={"RUNNER_JOBS_SLOT": "3"})
    assert (ran.exit_code, "Did you mean RUNNER_JOBS_SLOTS?" in ran.stdout) == (0, True)


@pytest.mark.parametrize(
    ("text", "environment", "said"),
    [
        ('[api]\ntoken_file = "/none"', {}, "runner.toml:2: the file /none cannot be read: No such file"),
        ('[api]\ntoken = "x"\ntoken_file = "/none"', {}, "api.token is given twice, by value and by file"),
        ("", {"RUNNER_WEBHOOKS_URLS_FILE": "/dev/null"}, "URLS_FILE: the file /dev/null is empty. Write webhooks.urls"),
        ("", {"RUNNER_API_TOKEN_FILE": "/none"}, "RUNNER_API_TOKEN_FILE: the file /none cannot be read"),
        ("", {"RUNNER_API_TOKEN_FILE": "/none", "RUNNER_API_TOKEN": "x"}, "RUNNER_API_TOKEN is set as well"),
        ("", {"RUNNER_API_TOKEN": "hunter2"}, "RUNNER_API_TOKEN: api.token: must have at least 16 characters."),
        ("", {"RUNNER_API_TOKEN": "hunter2\nof two lines"}, "RUNNER_API_TOKEN: api.token: must be one word of ASCII"),
    ],
)
def test_a_secret_that_cannot_be_had_is_told_by_where_it_was_named(
    file: Path, text: str, environment: dict[str, str], said: str
) -> None:
    file.write_text(text)
    ran = CliRunner().invoke(app(), ["config", "check", str(file)], env=environment)
    assert isinstance(ran.exception, ConfigError)
    assert said in str(ran.exception)
    assert "hunter2" not in str(ran.exception)


class Running:
    """A real service without a keeper: it starts no job."""

    def __init__(self, file: Path, scheme: str = "http") -> None:
        self.scheme = scheme
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.log = file.with_name("log")
        places = [
            "--state",
            str(file.parent / "state"),
            "--listen",
            self.address,
            "--keeper",
            str(file.parent / "none"),
        ]
        with self.log.open("wb") as log:
            self.process = programs.start(programs.runner, "serve", "--config", str(file), *places, stderr=log)
        try:
            until("the service answers", self._answers)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return answers(f"{self.scheme}://{self.address}/live")

    def reread(self, said: str) -> None:
        self.process.send_signal(signal.SIGHUP)
        until(said, lambda: said in self.log.read_text())

    @property
    def status(self) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer: dict[str, Any] = httpx.get(f"http://{self.address}/v1/status", headers=headers, verify=False).json()
        return answer


@pytest.fixture
def running(file: Path) -> Iterator[Running]:
    service = Running(file)
    yield service
    service.stop()


def test_hup_takes_up_what_is_live_tells_the_rest_and_refuses_what_is_wrong(file: Path, running: Running) -> None:
    assert running.status["slots"] == 3
    file.write_text(f'[jobs]\nslots = 5\n[gitlab]\ngrace = 9\n[api]\ntoken = "{TOKEN}"\n')
    running.reread("not taken up before the next start: gitlab.grace")
    assert running.status["slots"] == 5
    file.write_text('[jobs]\nslots = 7\nper_key = "none"\n')
    running.reread("the configuration was left as it was: The configuration is wrong: " + f"{file}:3: jobs.per_key")
    assert running.status["slots"] == 5
    os.kill(running.process.pid, signal.SIGTERM)
    assert running.process.wait(30) == 0
