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


def job(own: str = "") -> GitLabJob:
    return GitLabJob(
        1,
        "hash",
        "https://gitlab.example",
        1,
        protected=True,
        fork=False,
        credentials=(GITLABS,),
        variables={credentials.VARIABLE: own},
    )


def configuration(given: str = "") -> dict[str, object]:
    return credentials.configuration(job(), given)


def auth(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def test_the_jobs_own_login_comes_before_gitlabs() -> None:
    own = {"auths": {"registry.example.com:5050": auth("me", "mine"), "other": auth("you", "yours")}}
    assert configuration(json.dumps(own)) == own
    assert configuration() == {"auths": {GITLABS.registry: auth(GITLABS.username, GITLABS.password)}}


def test_gitlab_runner_knows_the_value_of_more_sources_than_the_job_response() -> None:
    """Its own configuration's, and a secret's of an external store; of the job's variables, it is the same."""
    assert credentials.given(job("the job's"), "gitlab-runner's") == "gitlab-runner's"
    assert credentials.given(job("the job's"), "") == "the job's"
    assert credentials.given(GitLabJob(1, "hash", "https://gitlab.example", 1, protected=True, fork=False), "") == ""


def test_a_credentials_store_does_not_hide_what_gitlab_gives() -> None:
    given = '{"credsStore": "desktop", "credHelpers": {"a": "ecr-login"}, "auths": {}}'
    assert configuration(given) == {
        "auths": {GITLABS.registry: auth(GITLABS.username, GITLABS.password)},
        "credHelpers": {"a": "ecr-login"},
    }


@pytest.mark.parametrize("given", ["no JSON", "[]", '"text"', "[" * 100_000, '{"auths": 3}', '{"credsStore": "x"}'])
def test_what_is_no_configuration_is_left_out_and_told(given: str) -> None:
    assert credentials.VARIABLE in (credentials.remark(given) or "")
    assert list(configuration(given)) == ["auths"]


def test_nothing_is_told_where_nothing_is_wrong() -> None:
    assert credentials.remark("") is None
    assert credentials.remark('{"auths": {}}') is None


def install(home: Path, given: str = "") -> int:
    script = credentials.install(configuration(given), str(home / "of the job"), str(home / ".docker"))
    return subprocess.run(["sh"], input=script, check=False).returncode


def test_the_script_writes_it_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "of the job"
    folder.mkdir()
    (folder / "left").touch()
    assert install(tmp_path) == 0
    assert json.loads((tmp_path / ".docker" / "config.json").read_text()) == configuration()
    assert [(path.name, path.stat().st_mode & 0o777) for path in folder.iterdir()] == [("config.json", 0o600)]
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_configuration_of_the_sandbox_s_image_is_left_alone(tmp_path: Path) -> None:
    """The trap: a file of the image in the home that changed is damage, so every job would cost its sandbox."""
    own = tmp_path / ".docker" / "config.json"
    (own.parent / "cli-plugins").mkdir(parents=True)
    own.write_text("the image's")
    assert install(tmp_path) == credentials.LEFT_ALONE
    assert own.read_text() == "the image's"
    own.unlink()
    assert install(tmp_path) == 0
    assert json.loads(own.read_text()) == configuration()
    assert not own.parent.is_symlink()
    own.unlink()
    own.symlink_to(tmp_path / "nowhere")
    assert install(tmp_path) == 0
    assert json.loads(own.read_text()) == configuration()


def test_what_an_earlier_job_left_is_written_again(tmp_path: Path) -> None:
    """The trap: sandboxes of somebody else's are not emptied, and a job's token is not valid after it."""
    assert install(tmp_path, '{"auths": {"earlier": {}}}') == 0
    assert install(tmp_path) == 0
    assert json.loads((tmp_path / ".docker" / "config.json").read_text()) == configuration()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".docker").mkdir()
    for given in ('{"auths": {"earlier": {}}}', ""):
        assert install(tmp_path / "home", given) == 0
    assert json.loads((tmp_path / "home" / ".docker" / "config.json").read_text()) == configuration()


def test_a_login_is_not_in_what_python_prints() -> None:
    assert "word" not in repr(job())
