"""What is made of a job response: of GitLab's own words, of a job author's, and of anything else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import ResponseError
from runner.gitlab.response import (
    PROJECT_FIELD,
    PROTECTED_FIELD,
    Credential,
    GitLabJob,
    Image,
    expand,
    parse,
)
from runner.gitlab.trust import remark, trust_key
from runner.job import UNTRUSTED

MINIMAL = {"id": 7, "token": "secret-token"}


def job(**changes: object) -> GitLabJob:
    """Return the job of a small response."""
    return parse(json.dumps({**MINIMAL, **changes}).encode())


def variable(key: str, value: str, **changes: object) -> dict[str, object]:
    return {"key": key, "value": value, **changes}


def test_what_is_not_there_is_assumed_to_be_least() -> None:
    least = job()
    assert (least.instance, least.project, least.protected, least.fork) == ("", 0, False, False)
    assert least.missing == (PROJECT_FIELD, PROTECTED_FIELD)
    assert (least.image, least.services, least.credentials, least.timeout) == (None, (), (), 7200.0)
    assert trust_key(least) == UNTRUSTED


def test_lists_that_go_wrote_as_null() -> None:
    nulls = dict.fromkeys(("variables", "services", "credentials", "job_info", "git_info", "runner_info", "image"))
    assert job(**nulls) == job()


def test_what_was_not_sent_is_there_as_go_s_zero_values() -> None:
    """The trap: a project that nobody named is number 0, and would be everybody's."""
    zeros = job(
        token="",
        job_info={"name": "", "stage": "", "project_id": 0, "project_name": "", "project_full_path": ""},
        git_info={"repo_url": "", "ref": "", "refspecs": None, "protected": None},
        runner_info={"timeout": 0, "runner_session_url": ""},
        image={"name": "", "executor_opts": {"docker": {"platform": "", "user": ""}, "kubernetes": {}}},
        services=[{"name": "redis", "alias": "", "entrypoint": None, "command": None, "pull_policy": None}],
    )
    assert trust_key(zeros) == UNTRUSTED
    assert zeros.missing == (PROJECT_FIELD, PROTECTED_FIELD)
    assert (zeros.project, zeros.image, zeros.timeout) == (0, None, job().timeout)
    assert [(service.aliases, service.command, service.image.user) for service in zeros.services] == [((), None, None)]


def test_a_whole_job() -> None:
    whole = job(
        variables=[
            variable("TAG", "1.2", public=True),
            variable("NAME", "app:$TAG"),
            variable("RAW", "$TAG", raw=True),
            variable("TAG", "1.3", public=True),
        ],
        image={
            "name": "registry.example/$NAME",
            "entrypoint": [""],
            "pull_policy": ["always", "if-not-present"],
            "executor_opts": {"docker": {"user": 1000, "platform": "linux/amd64"}},
        },
        services=[
            {
                "name": "postgres:$TAG",
                "alias": "db, main",
                "command": ["-c", "x"],
                "variables": [variable("A", "$TAG")],
            },
            {"name": ""},
        ],
        credentials=[
            {"type": "registry", "url": "registry.example", "username": "u", "password": "p"},
            {"type": "other", "url": "x"},
        ],
        runner_info={"timeout": 60},
    )
    assert whole.variables == {"TAG": "1.3", "NAME": "app:1.3", "RAW": "$TAG"}
    assert whole.service_variables == {"TAG": "1.3"}
    assert whole.image == Image("registry.example/app:1.3", ("",), "1000", ("always", "if-not-present"), "linux/amd64")
    [service] = whole.services
    assert service.image.name == "postgres:1.3"
    assert service.aliases == ("db", "main")
    assert service.command == ("-c", "x")
    assert service.variables == {"A": "1.3"}
    assert whole.credentials == (Credential("registry.example", "u", "p"),)
    assert whole.timeout == 60


def test_gitlab_runner_s_own_variables_fill_in_what_the_job_says_with_them() -> None:
    """And nothing else of what it has: a secret is no service's, and what GitLab said stays GitLab's."""
    given = {
        "CI_PROJECT_DIR": "/builds/app", "MIRROR": "m.example", "CI_SERVER_TLS_KEY_FILE": "a key",
        "DOCKER_AUTH_CONFIG": "a login", "FROM_VAULT": "a secret", "PRIVATE": "not public", "TAG": "another",
    }  # fmt: skip
    response = {
        **MINIMAL,
        "variables": [
            variable("TAG", "1", public=True),
            variable("PRIVATE", "$CI_PROJECT_DIR/private"),
            variable("PLACE", "$CI_PROJECT_DIR/place", public=True),
        ],
        "secrets": {"FROM_VAULT": {}},
        "image": {"name": "$MIRROR/app:$TAG", "executor_opts": {"docker": {"user": "$MIRROR"}}},
        "services": [{"name": "$MIRROR/db", "variables": [variable("DATA", "$PLACE:$CI_PROJECT_DIR/x:$FROM_VAULT")]}],
    }
    made = parse(json.dumps(response).encode(), given)
    own = {"CI_PROJECT_DIR": "/builds/app", "MIRROR": "m.example"}
    assert made.runner_variables == own
    assert made.variables == {"TAG": "1", "PRIVATE": "/builds/app/private", "PLACE": "/builds/app/place"}
    assert made.service_variables == {**own, "TAG": "1", "PLACE": "/builds/app/place"}
    assert made.image == Image("m.example/app:1", user="m.example")
    assert [(service.image.name, service.variables) for service in made.services] == [
        ("m.example/db", {"DATA": "/builds/app/place:/builds/app/x:"})
    ]
    assert "/builds" not in repr(made)


def test_a_file_variable_stands_for_its_path_wherever_another_text_names_it() -> None:
    """The trap: a secret's contents in the environment of every service, and in what is told of an image's name."""
    given = {"RUNNER_TEMP_PROJECT_DIR": "/builds/app.tmp", "KUBECONFIG": "the contents"}
    response = {
        **MINIMAL,
        "variables": [
            variable("KUBECONFIG", "the contents", file=True),
            variable("CONF", "$KUBECONFIG", public=True),
            variable("OPEN", "the contents too", public=True, file=True),
            variable("RUNNER_TEMP_PROJECT_DIR", "/of/the/job", public=True),
        ],
        "image": {"name": "app:$KUBECONFIG"},
        "services": [
            {
                "name": "db",
                "variables": [
                    variable("OWN", "$CONF and ${KUBECONFIG} and $HERE"),
                    variable("HERE", "the contents", file=True),
                ],
            }
        ],
    }
    made = parse(json.dumps(response).encode(), given)
    path = "/builds/app.tmp/KUBECONFIG"
    assert made.service_variables == {
        "RUNNER_TEMP_PROJECT_DIR": "/builds/app.tmp", "CONF": path, "OPEN": "/builds/app.tmp/OPEN"
    }  # fmt: skip
    assert made.image == Image(f"app:{path}")
    [service] = made.services
    assert service.variables == {
        "OWN": f"{path} and {path} and /builds/app.tmp/HERE", "HERE": "/builds/app.tmp/HERE"
    }  # fmt: skip
    # What a file variable holds is still there for whoever asks for that, as for DOCKER_AUTH_CONFIG.
    assert made.variables["KUBECONFIG"] == "the contents"
    # A later life reads the response again, with what was noted of gitlab-runner's own.
    assert parse(json.dumps(response).encode(), made.runner_variables) == made


def test_a_name_s_last_public_value_is_the_services_though_one_that_is_not_public_follows() -> None:
    """The trap: a project's protected variable hides the pipeline's public one of its name. gitlab-runner filters."""
    made = job(
        variables=[
            variable("LEVEL", "first", public=True),
            variable("LEVEL", "public of $LEVEL", public=True),
            variable("LEVEL", "private"),
        ]
    )
    assert made.service_variables == {"LEVEL": "public of private"}
    assert made.variables == {"LEVEL": "private"}


def test_gitlab_runner_s_own_variables_decide_nothing() -> None:
    """The trap: a job's variables are among them, and shadow what GitLab says of it."""
    given = {SOURCE: "3", PROTECTED: "true", "CI_PROJECT_ID": "9", "CI_JOB_ID": "8", "DOCKER_AUTH_CONFIG": "{}"}
    for changes in ({}, at_home(), at_home({"ref": "refs/merge-requests/1/head"})):
        made = parse(json.dumps({**MINIMAL, **changes}).encode(), given)
        assert (made.id, trust_key(made), made.missing) == (7, trust_key(job(**changes)), job(**changes).missing)
        assert made.variables == {}


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({"artifacts": None, "cache": None, "dependencies": None}, False),
        ({"artifacts": [], "cache": [], "dependencies": [{"artifacts_file": None}]}, False),
        # As Go writes an earlier job that has none.
        ({"dependencies": [{"id": 1, "artifacts_file": {"filename": "", "size": 0}}]}, False),
        ({"dependencies": [{"id": 1, "artifacts_file": {"filename": "artifacts.zip", "size": 3}}]}, True),
        ({"artifacts": [{"paths": ["out"]}]}, True),
        ({"cache": [{"key": "deps", "paths": ["vendor"]}]}, True),
    ],
)
def test_whether_a_job_s_scripts_call_gitlab_runner(changes: dict[str, object], needed: bool) -> None:
    assert job(**changes).needs_helper is needed


def test_no_secret_is_in_the_words_for_a_job() -> None:
    told = repr(
        job(
            variables=[variable("KEY", "secret-value")],
            services=[{"name": "x", "variables": [variable("KEY", "secret-value")]}],
            credentials=[{"type": "registry", "url": "r", "username": "secret-user", "password": "secret-password"}],
        )
    )
    assert "secret" not in told


PROJECT = {"job_info": {"project_id": 3, "project_full_path": "group/app"}}
REPOSITORY = "https://gitlab-ci-token:a-token@gitlab.example/group/app.git"
SOURCE = "CI_MERGE_REQUEST_SOURCE_PROJECT_ID"
PROTECTED = "CI_COMMIT_REF_PROTECTED"


def at_home(git: Mapping[str, object] = MappingProxyType({}), **changes: object) -> dict[str, object]:
    """Return what says whose job it is."""
    return {**PROJECT, "git_info": {"repo_url": REPOSITORY, **git}, **changes}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (at_home({"protected": True}), "gitlab-bf08810b-3-protected"),
        (at_home({"protected": False}), "gitlab-bf08810b-3-unprotected"),
        (at_home(), "gitlab-bf08810b-3-unprotected"),
        (at_home({"protected": True}, job_info={}), UNTRUSTED),
        (at_home(variables=[variable(SOURCE, "3")]), "gitlab-bf08810b-3-unprotected"),
        (at_home(variables=[variable(SOURCE, "4")]), UNTRUSTED),
        # A fork's author adds the answer that would be right: GitLab's own stays before it.
        (at_home(variables=[variable(SOURCE, "4"), variable(SOURCE, "3")]), UNTRUSTED),
        (at_home({"ref": "refs/merge-requests/1/head"}), UNTRUSTED),
        (at_home({"refspecs": ["+refs/merge-requests/1/head:refs/x"]}), UNTRUSTED),
        (at_home(variables=[variable(PROTECTED, "true")]), "gitlab-bf08810b-3-protected"),
        (at_home(variables=[variable(PROTECTED, "false")]), "gitlab-bf08810b-3-unprotected"),
        (at_home(variables=[variable(PROTECTED, "yes")]), "gitlab-bf08810b-3-unprotected"),
        # As before, the job's own answer is after GitLab's; and where there is the field, no variable counts.
        (
            at_home(variables=[variable(PROTECTED, "false"), variable(PROTECTED, "true")]),
            "gitlab-bf08810b-3-unprotected",
        ),
        (at_home({"protected": False}, variables=[variable(PROTECTED, "true")]), "gitlab-bf08810b-3-unprotected"),
        (at_home(variables=[variable("CI_PROJECT_ID", "9")]), "gitlab-bf08810b-3-unprotected"),
    ],
)
def test_the_trust_key(changes: dict[str, object], key: str) -> None:
    assert trust_key(job(**changes)) == key


def test_projects_of_two_gitlabs_with_one_number_share_nothing() -> None:
    """The trap: one host serves two GitLabs, and each has a project 3."""
    repositories = [
        "https://gitlab-ci-token:t@gitlab.example/group/app.git",
        "https://gitlab-ci-token:t@gitlab.example.org/group/app.git",
        "http://gitlab-ci-token:t@gitlab.example/group/app.git",
        "https://gitlab-ci-token:t@gitlab.example:8443/group/app.git",
        "https://gitlab-ci-token:t@gitlab.example/second/group/app.git",
    ]
    keys = {trust_key(job(**at_home({"repo_url": repository}))) for repository in repositories}
    assert len(keys) == len(repositories)
    assert UNTRUSTED not in keys


def test_a_job_s_variables_do_not_say_which_gitlab_it_is_from() -> None:
    """The trap: whoever writes a job at one GitLab would name the other one."""
    shadows = [variable(name, "https://other.example") for name in ("CI_SERVER_URL", "CI_REPOSITORY_URL")]
    assert trust_key(job(**at_home(variables=shadows))) == trust_key(job(**at_home()))


def test_which_gitlab_it_is_does_not_change_with_the_token_or_the_project_s_name() -> None:
    moved = {"project_id": 3, "project_full_path": "Other/sub/app-2"}
    url = "https://gitlab-ci-token:another@GitLab.example/Other/sub/app-2.git"
    later = at_home({"repo_url": url}, job_info=moved)
    assert trust_key(job(**later)) == trust_key(job(**at_home()))


def test_without_the_project_s_path_its_address_stands_for_the_gitlab() -> None:
    """The trap: two GitLabs below one host name would be one."""
    old = {"project_id": 3}
    here, there = (
        job(**at_home({"repo_url": f"https://gitlab.example/{root}group/app.git"}, job_info=old)) for root in ("", "b/")
    )
    assert (here.instance, there.instance) == (
        "https://gitlab.example/group/app", "https://gitlab.example/b/group/app"
    )  # fmt: skip


@pytest.mark.parametrize("url", ["", "no address", "https:///group/app.git", "https://[::1/app.git", "file:///app.git"])
def test_what_sends_no_address_of_a_gitlab_is_one_of_its_own(url: str) -> None:
    made = job(**at_home({"repo_url": url, "protected": True}))
    assert (trust_key(made), made.missing) == ("gitlab-e3b0c442-3-protected", ())


def test_what_is_said_of_missing_trust() -> None:
    assert PROTECTED_FIELD in (remark(job(**at_home())) or "")
    assert PROJECT_FIELD in (remark(job()) or "")
    assert "fork" in (remark(job(**at_home(variables=[variable(SOURCE, "4")]))) or "")
    assert remark(job(**at_home({"protected": False}))) is None
    assert remark(job(**at_home(variables=[variable(PROTECTED, "false")]))) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"id": true, "token": "t"}',
        b'{"id": 0, "token": "t"}',
        b'{"id": 1, "token": "t", "image": 7}',
        b"[" * 100_000,
        b'{"id": 1, "token": "t", "variables": [{"key": "K", "value": {"secret": 1}}]}',
    ],
)
def test_what_cannot_be_read(content: bytes) -> None:
    with pytest.raises(ResponseError, match="cannot be read") as caught:
        parse(content)
    assert "secret" not in str(caught.value)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_anything_is_read_or_refused(content: bytes) -> None:
    with pytest.raises(ResponseError):
        parse(content)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [("$A-${A}$$A$B", "x-x$A"), ("${A", "${A"), ("$", "$"), ("$A.b", "x.b"), ("$9", "")],
)
def test_variables_in_a_text(text: str, expanded: str) -> None:
    assert expand(text, {"A": "x"}) == expanded
