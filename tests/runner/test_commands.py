"""The commands that talk to a service (here without sandboxes): their output for jobs, tokens and webhooks."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from runner.commands.jobs import _asked, _times
from tests import programs
from tests.e2e.conftest import DEADLINE
from tests.runner.api import process
from tests.waiting import until

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The command, as a user of one service has it."""
    state = tmp_path_factory.mktemp("state")
    with process.service(state) as url:
        known = {"RUNNER_URL": url, "RUNNER_TOKEN_FILE": str(state / "token")}

        def run(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
            told = {**os.environ, **known, **environment}
            return programs.run(programs.runner, *words, environment=told, cwd=cwd, timeout=DEADLINE)

        yield run


def test_a_token_is_made_used_listed_and_revoked(runner: Command) -> None:
    made = runner("token", "create", "ci of team-a", "--scope", "read", "--days", "30")
    token = made.stdout.strip()
    assert (made.returncode, made.stderr) == (0, "")
    assert runner("ls", RUNNER_TOKEN=token).returncode == 0
    refused = runner("cancel", "0" * 32, RUNNER_TOKEN=token)
    assert (refused.returncode, "lacks the scope `submit`" in refused.stderr) == (69, True)

    shown = runner("token", "ls").stdout
    [line] = [line for line in shown.splitlines() if "ci of team-a" in line]
    assert ("read" in line, "never" in line, token.split(".")[1] in shown) == (True, False, False)
    [facts] = [facts for facts in json.loads(runner("token", "ls", "--json").stdout) if facts["name"] == "ci of team-a"]
    assert (facts["id"], facts["scopes"]) == (token.split(".")[0], ["read"])
    assert facts["expires"] - facts["created"] == pytest.approx(30 * 24 * 3600)

    revoked = runner("token", "revoke", facts["id"], "--json")
    assert (revoked.returncode, json.loads(revoked.stdout)) == (0, {"id": facts["id"], "revoked": True})
    refused = runner("ls", RUNNER_TOKEN=token)
    assert (refused.returncode, refused.stderr) == (
        69, "runner: The token is unknown or was revoked. Have a new one created. The token came from RUNNER_TOKEN.\n"
    )  # fmt: skip
    again = runner("token", "revoke", facts["id"])
    assert (again.returncode, "There is no token of that id" in again.stderr) == (69, True)


def test_without_options_it_may_read_and_submit_for_ever(runner: Command) -> None:
    made = json.loads(runner("token", "create", "plain", "--json").stdout)
    assert (made["scopes"], made["expires"]) == (["read", "submit"], None)
    [line] = [line for line in runner("token", "ls").stdout.splitlines() if "plain" in line]
    assert line.endswith("never")


@pytest.mark.parametrize(
    ("words", "code", "cause"),
    [
        (["create", "a\nb"], 64, "name: must match pattern"),
        (["create", "ci", "--scope", "root"], 64, "scopes.0: must be 'read'"),
        (["create", "ci", "--days", "0"], 2, "--days"),
        (["revoke", "../jobs"], 64, "is no id of a token. `runner token ls`"),
    ],
)
def test_what_cannot_be_is_told(runner: Command, words: list[str], code: int, cause: str) -> None:
    refused = runner("token", *words)
    assert (refused.returncode, refused.stdout) == (code, "")
    assert cause in refused.stderr


def test_only_an_admin_makes_tokens(runner: Command) -> None:
    token = runner("token", "create", "ci").stdout.strip()
    refused = runner("token", "create", "more", "--scope", "admin", RUNNER_TOKEN=token)
    assert (refused.returncode, "lacks the scope `admin`" in refused.stderr) == (69, True)


def test_the_steps_of_a_job_are_shown(runner: Command, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "steps:\n- {name: build, script: make}\n- {name: test, script: make test, if: env.A == 'x'}\nretry: 1\n"
    )
    submitted = runner("submit", str(tmp_path / "job.yaml"))
    assert (submitted.returncode, submitted.stderr) == (0, "")
    shown = runner("show", submitted.stdout.strip())
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines[1][:2] == ["it", "waits:"]
    assert lines[2:] == [["STEP", "STATE", "EXIT", "CODE", "SECONDS"], ["build", "waiting"], ["test", "waiting"]]
    view = json.loads(runner("show", submitted.stdout.strip(), "--json").stdout)
    assert [step["name"] for step in view["steps"]] == ["build", "test"]


def test_while_nothing_starts_it_is_told_why(runner: Command, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("script: make\n")
    job = runner("submit", str(tmp_path / "job.yaml")).stdout.strip()
    until("the keeper was asked", lambda: "Nothing starts: There is no keeper" in runner("status").stdout)
    assert "\nit waits: There is no keeper" in runner("show", job).stdout


def test_when_and_where_a_job_ran_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "localtime", time.gmtime)
    view = {"started": 60.0, "ended": 72.34, "sandbox": "sandbox-1", "profile": "big"}
    assert list(_times(view)) == [
        "started 1970-01-01 00:01:00 in sandbox-1, profile big",
        "ended 1970-01-01 00:01:12, after 12.3 s",
    ]
    assert list(_times({**view, "started": None})) == ["ended 1970-01-01 00:01:12"]
    assert list(_times({**view, "started": None, "ended": None})) == []


def test_a_job_is_named_by_the_beginning_of_its_id(runner: Command, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("script: make\n")
    job = runner("submit", str(tmp_path / "job.yaml")).stdout.strip()
    others = json.loads(runner("ls", "--json").stdout)
    short = next(job[:size] for size in range(4, 33) if sum(one["id"].startswith(job[:size]) for one in others) == 1)
    assert json.loads(runner("show", short, "--json").stdout)["id"] == job
    assert runner("cancel", short).stdout.startswith(f"{job}: ")
    assert (runner("logs", "-f", short).returncode, runner("artifacts", short).returncode) == (130, 0)
    unknown = "".join("0" if digit == "f" else "f" for digit in job[:12])
    refused = runner("show", unknown)
    assert (refused.returncode, refused.stderr) == (
        64, f"runner: {unknown}: there is no job whose id begins like that. `runner ls` has them.\n"
    )  # fmt: skip


def test_whether_a_file_holds_a_job_is_told_as_json_too(runner: Command, tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text("script: make\n")
    (tmp_path / "bad.yaml").write_text("script: make\nretry: often\n")
    good = runner("validate", str(tmp_path / "good.yaml"), "--json")
    assert (good.returncode, json.loads(good.stdout)) == (0, {"valid": True, "problem": None})
    bad = runner("validate", str(tmp_path / "bad.yaml"), "--json")
    said = json.loads(bad.stdout)
    assert (bad.returncode, said["valid"]) == (64, False)
    assert said["problem"].startswith(f"{tmp_path}/bad.yaml:2:1: retry: ")
    assert bad.stderr == f"runner: {said['problem']}\n"


@pytest.mark.parametrize("option", [[], ["--live"]])
def test_a_health_check_has_a_sentence_for_people_and_the_reasons_for_programs(
    runner: Command, option: list[str]
) -> None:
    told, document = runner("ping", *option), runner("ping", "--json", *option)
    said = json.loads(document.stdout)
    if option:
        assert (told.stdout, told.returncode, said) == ("alive\n", 0, {"status": "alive"})
    else:  # there is no keeper
        assert (told.returncode, document.returncode, said["reasons"]) == (1, 1, ["keeper"])
        assert told.stdout == f"{said['detail']}\n"


def test_a_health_check_of_something_else_says_so(runner: Command) -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:  # has a page for everything, an error
        answering = Thread(target=server.handle_request)
        answering.start()
        page = runner("ping", "--json", RUNNER_URL=f"http://127.0.0.1:{server.server_port}")
        answering.join()
    assert (page.returncode, page.stdout) == (69, "")
    assert "is no runner: HTTP 501. Start it, or set RUNNER_URL." in page.stderr


def test_a_health_check_finds_the_service_where_other_commands_do(runner: Command, tmp_path: Path) -> None:
    (tmp_path / "compose.yaml").touch()
    (tmp_path / "docker-compose").write_text("#!/bin/sh\necho no runner >&2; exit 1\n")
    (tmp_path / "docker-compose").chmod(0o755)
    place = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RUNNER_URL": "", "RUNNER_TOKEN_FILE": ""}
    asked = [runner(*words, cwd=tmp_path, **place) for words in (["ping"], ["ls"])]
    assert [(one.returncode, "knows no runner here (no runner)" in one.stderr) for one in asked] == [(69, True)] * 2


def test_a_job_has_one_source(runner: Command, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        f"script: make\nsource: {{kind: git, url: 'https://example.com/a.git', ref: main, commit: {'f' * 40}}}\n"
    )
    refused = runner("submit", str(tmp_path / "job.yaml"), "--upload", str(tmp_path))
    assert (refused.returncode, "has a source already" in refused.stderr) == (64, True)


def test_what_became_of_a_cancel_is_told(runner: Command, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("script: make\nqueue_timeout: 3600\n")
    job = runner("submit", str(tmp_path / "job.yaml")).stdout.strip()
    assert runner("cancel", job).stdout in {f"{job}: its end was asked for\n", f"{job}: it is cancelled\n"}
    runner("logs", "-f", job)
    assert runner("cancel", job).stdout == f"{job}: it is cancelled\n"
    assert _asked({"outcome": "succeeded", "exit_code": 0}) == "it had ended before: succeeded (exit code 0)"


def test_a_log_as_json_has_a_line_for_each_piece_and_one_for_the_outcome(runner: Command, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("script: make\n")
    job = runner("submit", str(tmp_path / "job.yaml")).stdout.strip()
    runner("cancel", job)
    plain = runner("logs", "-f", job)
    followed = runner("logs", "-f", job, "--json")
    *pieces, end = [json.loads(line) for line in followed.stdout.splitlines()]
    assert "".join(piece["text"] for piece in pieces) == plain.stdout != ""
    assert pieces[-1]["offset"] == len(plain.stdout.encode())
    assert (end["outcome"]["outcome"], followed.returncode) == ("cancelled", end["outcome"]["exit_code"])
    [rest] = [json.loads(line) for line in runner("logs", job, "--json", "--offset", "3").stdout.splitlines()]
    assert rest == {"offset": len(plain.stdout.encode()), "text": plain.stdout[3:]}


def test_without_a_keeper_nobody_knows_of_sandboxes(runner: Command) -> None:
    refused = runner("sandboxes", "--json")
    assert (refused.returncode, refused.stdout) == (69, "")
    assert refused.stderr.startswith("runner: There is no keeper socket at ")


def test_without_receivers_there_are_no_webhooks_in_trouble(runner: Command) -> None:
    assert json.loads(runner("webhooks", "--json").stdout) == []
    assert runner("webhooks").stdout.split() == ["JOB", "RECEIVER", "TRIES", "AGAIN", "PROBLEM"]
