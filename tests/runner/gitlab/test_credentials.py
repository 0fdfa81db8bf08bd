"""The job's logins to registries."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest

from runner.gitlab import credentials
from runner.gitlab.response import Credential, GitLabJob

GITLABS = Credential("registry.example.com:5050", "gitlab-ci-token", "pa'ss\n$(word)é")


def job(given: str = "") -> GitLabJob:
    return GitLabJob(
        1, "hash", 1, protected=True, fork=False, credentials=(GITLABS,), variables={credentials.VARIABLE: given}
    )


def auth(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def test_the_jobs_own_login_comes_before_gitlabs() -> None:
    own = {"auths": {"registry.example.com:5050": auth("me", "mine"), "other": auth("you", "yours")}}
    assert credentials.configuration(job(json.dumps(own))) == own
    assert credentials.configuration(job()) == {"auths": {GITLABS.registry: auth(GITLABS.username, GITLABS.password)}}


def test_a_credentials_store_does_not_hide_what_gitlab_gives() -> None:
    given = '{"credsStore": "desktop", "credHelpers": {"a": "ecr-login"}, "auths": {}}'
    assert credentials.configuration(job(given)) == {
        "auths": {GITLABS.registry: auth(GITLABS.username, GITLABS.password)},
        "credHelpers": {"a": "ecr-login"},
    }


@pytest.mark.parametrize("given", ["no JSON", "[]", '"text"', "[" * 100_000, '{"auths": 3}', '{"credsStore": "x"}'])
def test_what_is_no_configuration_is_left_out_and_told(given: str) -> None:
    assert credentials.VARIABLE in (credentials.remark(job(given)) or "")
    assert list(credentials.configuration(job(given))) == ["auths"]


def test_nothing_is_told_where_nothing_is_wrong() -> None:
    assert credentials.remark(job()) is None
    assert credentials.remark(job('{"auths": {}}')) is None


def test_the_script_writes_it_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "docker"
    folder.mkdir()
    (folder / "left").touch()
    script = credentials.install(job(), str(folder))
    subprocess.run(["sh"], input=script, check=True)
    assert json.loads((folder / "config.json").read_text()) == credentials.configuration(job())
    assert [(path.name, path.stat().st_mode & 0o777) for path in folder.iterdir()] == [("config.json", 0o600)]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_login_is_not_in_what_python_prints() -> None:
    assert "word" not in repr(job())
