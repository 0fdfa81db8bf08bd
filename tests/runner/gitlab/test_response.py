"""What is made of a job response: of GitLab's own words, of a job author's, and of anything else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import ResponseError
from runner.gitlab.response import PROJECT_FIELD, PROTECTED_FIELD, Credential, GitLabJob, Image, expand, parse
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
    assert (least.project, least.protected, least.fork) == (0, False, False)
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
        job_info={"name": "", "stage": "", "project_id": 0, "project_name": ""},
        git_info={"ref": "", "refspecs": None, "protected": None},
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


def test_gitlab_runner_s_own_variables_decide_nothing() -> None:
    """The trap: a job's variables are among them, and shadow what GitLab says of it."""
    given = {SOURCE: "3", PROTECTED: "true", "CI_PROJECT_ID": "9", "CI_JOB_ID": "8", "DOCKER_AUTH_CONFIG": "{}"}
    for changes in ({}, PROJECT, {**PROJECT, "git_info": {"ref": "refs/merge-requests/1/head"}}):
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


PROJECT = {"job_info": {"project_id": 3}}
SOURCE = "CI_MERGE_REQUEST_SOURCE_PROJECT_ID"
PROTECTED = "CI_COMMIT_REF_PROTECTED"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({**PROJECT, "git_info": {"protected": True}}, "gitlab-3-protected"),
        ({**PROJECT, "git_info": {"protected": False}}, "gitlab-3-unprotected"),
        ({**PROJECT}, "gitlab-3-unprotected"),
        ({"git_info": {"protected": True}}, UNTRUSTED),
        ({**PROJECT, "variables": [variable(SOURCE, "3")]}, "gitlab-3-unprotected"),
        ({**PROJECT, "variables": [variable(SOURCE, "4")]}, UNTRUSTED),
        # A fork's author adds the answer that would be right: GitLab's own stays before it.
        ({**PROJECT, "variables": [variable(SOURCE, "4"), variable(SOURCE, "3")]}, UNTRUSTED),
        ({**PROJECT, "git_info": {"ref": "refs/merge-requests/1/head"}}, UNTRUSTED),
        ({**PROJECT, "git_info": {"refspecs": ["+refs/merge-requests/1/head:refs/x"]}}, UNTRUSTED),
        ({**PROJECT, "variables": [variable(PROTECTED, "true")]}, "gitlab-3-protected"),
        ({**PROJECT, "variables": [variable(PROTECTED, "false")]}, "gitlab-3-unprotected"),
        ({**PROJECT, "variables": [variable(PROTECTED, "yes")]}, "gitlab-3-unprotected"),
        # As before, the job's own answer is after GitLab's; and where there is the field, no variable counts.
        ({**PROJECT, "variables": [variable(PROTECTED, "false"), variable(PROTECTED, "true")]}, "gitlab-3-unprotected"),
        (
            {**PROJECT, "git_info": {"protected": False}, "variables": [variable(PROTECTED, "true")]},
            "gitlab-3-unprotected",
        ),
        ({**PROJECT, "variables": [variable("CI_PROJECT_ID", "9")]}, "gitlab-3-unprotected"),
    ],
)
def test_the_trust_key(changes: dict[str, object], key: str) -> None:
    assert trust_key(job(**changes)) == key


def test_what_is_said_of_missing_trust() -> None:
    assert PROTECTED_FIELD in (remark(job(**PROJECT)) or "")
    assert PROJECT_FIELD in (remark(job()) or "")
    assert "fork" in (remark(job(**PROJECT, variables=[variable(SOURCE, "4")])) or "")
    assert remark(job(**PROJECT, git_info={"protected": False})) is None
    assert remark(job(**PROJECT, variables=[variable(PROTECTED, "false")])) is None


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
