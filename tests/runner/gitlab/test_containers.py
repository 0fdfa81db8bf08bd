"""What is decided about a job's containers before any sandbox is asked."""

from __future__ import annotations

import ast
import io
import subprocess
import tarfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import BadJobError, InputError
from runner.gitlab.containers.inside import engine, enter, logins, prepare, services
from runner.gitlab.containers.names import aliases, first_come
from runner.gitlab.containers.plan import plan
from runner.gitlab.containers.policy import ImagePolicy, PullPolicy
from runner.gitlab.containers.program import program
from runner.gitlab.response import GitLabJob, Image, Service

WAIT = 30.0


def job(image: Image | None = None, *services: Service, **service_variables: str) -> GitLabJob:
    return GitLabJob(
        1,
        "hash",
        "https://gitlab.example",
        1,
        protected=True,
        fork=False,
        image=image,
        services=services,
        service_variables=service_variables,
    )


@pytest.mark.parametrize(
    ("image", "given", "expected"),
    [
        ("postgres", (), ("postgres",)),
        ("postgres:16-alpine", ("db", "db"), ("postgres", "db")),
        ("tutum/wordpress", (), ("tutum__wordpress", "tutum-wordpress")),
        ("reg.example.com:5000/a/b:1", (), ("reg.example.com__a__b", "reg.example.com-a-b")),
        ("reg.example.com/a@sha256:abc", ("x",), ("reg.example.com__a", "reg.example.com-a", "x")),
    ],
)
def test_services_have_the_names_that_gitlab_runner_gives(
    image: str, given: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    assert aliases(image, given) == expected


@pytest.mark.parametrize("alias", ["", "a b", "a\nb", "../x", "-x", "a" * 300, "é"])
def test_an_alias_that_is_no_host_name_is_refused(alias: str) -> None:
    """The trap: it would be a line of its own in a hosts file."""
    with pytest.raises(BadJobError, match="alias"):
        aliases("postgres", (alias,))


@given(st.text(max_size=60))
def test_names_from_any_image_are_host_names(image: str) -> None:
    for name in aliases(image, ()):
        assert not set(name) & set(" \t\n\0/#")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("docker:dind", True),
        ("docker:28.0.1-dind-rootless", True),
        ("registry.example.com:5000/hub/docker:dind@sha256:abc", True),
        ("docker", False),
        ("docker:28-cli", False),
        ("mydocker:dind", False),
        ("dind", False),
    ],
)
def test_which_service_is_an_engine(image: str, expected: bool) -> None:
    assert services.is_engine(image) is expected


def test_the_first_service_keeps_a_name() -> None:
    assert first_come([("a", "b"), ("b", "c"), ("a",)]) == [("a", "b"), ("c",), ()]
    twice = Service(Image("box:2"))
    made = plan(job(None, twice, twice), ImagePolicy(), "/builds", "/docker", WAIT)
    assert made
    order = order_of(made.prepare)
    assert (len(order["services"]), order["ignored"]) == (1, ["box:2"])


@pytest.mark.parametrize(
    ("patterns", "name", "allowed"),
    [
        (["ruby:*"], "ruby:3", True),
        (["ruby:*"], "evil/ruby:3", False),
        (["ruby:*"], "ruby:3/x", False),
        (["reg.example.com/**"], "reg.example.com/a/b:1", True),
        (["reg.example.com/**"], "regXexample.com/a", False),
        (["a?c"], "abc", True),
        ([], "anything/at:all", True),
    ],
)
def test_an_operator_may_forbid_images(patterns: list[str], name: str, allowed: bool) -> None:
    policy = ImagePolicy.parse(patterns, [])
    if allowed:
        assert policy.choose(name) == name
    else:
        with pytest.raises(BadJobError, match="does not allow the image"):
            policy.choose(name)


def test_the_longest_mapping_counts() -> None:
    policy = ImagePolicy.parse([], ["docker.io/=mirror/hub/", "docker.io/library/=mirror/", "ruby:2=ruby:3"])
    names = ("docker.io/library/ruby", "docker.io/me/app", "ruby:2", "other")
    assert [policy.choose(name) for name in names] == ["mirror/ruby", "mirror/hub/me/app", "ruby:3", "other"]


@pytest.mark.parametrize("name", ["", "-v/:/host", "a b", "a\nb", "a" * 5000])
def test_what_is_no_name_of_an_image_is_refused(name: str) -> None:
    with pytest.raises(BadJobError, match="not the name of an image"):
        ImagePolicy().choose(name)


@pytest.mark.parametrize("mapped", ["a", "=a", "a="])
def test_a_mapping_that_is_none_is_refused(mapped: str) -> None:
    with pytest.raises(InputError, match="BEGINNING=REPLACEMENT"):
        ImagePolicy.parse([], [mapped])


def test_pull_policies_are_the_jobs_or_the_operators() -> None:
    policy = ImagePolicy.parse([], [], ["if-not-present"])
    assert policy.pulls(()) == (PullPolicy.IF_NOT_PRESENT,)
    assert policy.pulls(("never", "always")) == (PullPolicy.NEVER, PullPolicy.ALWAYS)
    with pytest.raises(BadJobError, match="pull_policy"):
        policy.pulls(("sometimes",))
    with pytest.raises(InputError, match="pull policy"):
        ImagePolicy.parse([], [], ["sometimes"])


def test_a_job_without_image_and_services_needs_nothing() -> None:
    assert plan(job(), ImagePolicy(), "/builds", "/docker", WAIT) is None


def test_a_job_gets_what_the_policy_makes_of_its_words() -> None:
    policy = ImagePolicy.parse(["**"], ["box=other/box"])
    service = Service(Image("box:2"), ("db",), ("serve",), {"B": "service's"})
    made = plan(job(Image("box:1", ("",), "1000"), service, A="job's", B="job's"), policy, "/builds", "/docker", WAIT)
    assert made
    order = order_of(made.prepare)
    assert order["container"]["image"] == {
        "name": "other/box:1", "entrypoint": [""], "user": "1000", "platform": "", "pull": ["always"],
    }  # fmt: skip
    [started] = order["services"]
    assert (started["image"]["name"], started["aliases"], started["command"]) == (
        "other/box:2",
        ["box", "db"],
        ["serve"],
    )
    assert started["environment"] == {"A": "job's", "B": "service's"}
    assert "service's" not in repr(made)


def test_an_image_that_is_refused_is_the_jobs_fault() -> None:
    for refused in (job(Image("no")), job(None, Service(Image("no")))):
        with pytest.raises(BadJobError, match="does not allow"):
            plan(refused, ImagePolicy.parse(["yes"], []), "/builds", "/docker", WAIT)


@pytest.mark.parametrize(
    "error", [subprocess.TimeoutExpired("ldd", 60), tarfile.ReadError("odd"), MemoryError(), OSError("full")]
)
def test_whatever_fails_in_prepare_is_ours_and_tried_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The trap: Python's own exit code, 1, is the job's fault here, which is not tried again."""

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr(prepare, "_prepare", fail)
    assert prepare.main({}) == prepare.OURS
    assert (str(error) or "MemoryError") in capsys.readouterr().out


ROOT = "root:x:0:0::/root:/bin/sh\nworker:x:7:7::/work:/bin/sh\nodd\nodder:x:y:0::/odd:\n"


@pytest.mark.parametrize(
    ("user", "environment", "there", "link"),
    [
        ("", [], [], ("/root/.docker", "/job")),
        ("worker:staff", ["PATH=/bin"], [], ("/work/.docker", "/job")),
        ("7", None, [], ("/work/.docker", "/job")),
        ("1234", [], [], ("/.docker", "/job")),
        ("", ["HOME=/home/a"], [], ("/home/a/.docker", "/job")),
        # As kaniko's.
        ("", ["DOCKER_CONFIG=/kaniko/.docker/"], [], ("/kaniko/.docker", "/job")),
        ("", ["DOCKER_CONFIG=/own"], ["/own"], ("/own/config.json", "/job/config.json")),
        ("", ["DOCKER_CONFIG=/own"], ["/own", "/own/config.json"], None),
        # A link to itself would be in the way of the mount.
        ("", ["DOCKER_CONFIG=/job"], [], None),
    ],
)
def test_where_a_container_finds_the_jobs_logins(
    user: str,
    environment: list[str] | None,
    there: list[str],
    link: tuple[str, str] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An image's own configuration is left alone."""
    made = []
    accounts = tar("etc/passwd", ROOT.encode())
    monkeypatch.setattr(engine, "call", lambda *_: {"Config": {"User": user, "Env": environment}})
    monkeypatch.setattr(engine, "read", lambda *_, **__: (None, accounts))
    monkeypatch.setattr(engine, "has_path", lambda _, path: path in there)
    monkeypatch.setattr(logins, "_link", lambda _, path, target: made.append((path, target)))
    logins.link("x", "/job")
    assert made == [link] * (link is not None)


def test_a_container_that_cannot_have_logins_does_without(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise engine.Failed(500, "not a directory")

    monkeypatch.setattr(engine, "call", fail)
    logins.link("x", "/job")
    assert "cannot be brought into its container: not a directory." in capsys.readouterr().out


def tar(name: str, content: bytes) -> bytes:
    """Return an archive of one file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


@given(st.binary(max_size=50))
def test_a_stages_script_arrives_as_it_is(script: bytes) -> None:
    made = plan(job(Image("box")), ImagePolicy(), "/builds", "/docker", WAIT)
    assert made
    assert order_of(made.enter(script, 1.0))["script"] == script


def test_a_traceback_does_not_show_what_a_program_was_told() -> None:
    """The trap: Python prints the line that failed, and the line could hold a job's secrets."""
    script = program("tell_all", {"container": "x", "script": b"the secret"})
    done = subprocess.run(["python3", "-I", "-S", "-"], input=script, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"KeyError" in done.stderr
    assert b"secret" not in done.stderr


def test_a_program_around_a_script_that_fails_ends_by_a_signal_and_tells_no_secret() -> None:
    script = program("in_container", {"container": "x", "script": b"the secret"})
    done = subprocess.run(["python3", "-I", "-S", "-"], input=script, capture_output=True, check=False)
    assert (done.returncode, b"could not be run" in done.stdout) == (-enter.OURS, True)
    assert b"secret" not in done.stdout + done.stderr


def order_of(script: bytes) -> Any:  # noqa: ANN401 - it is what a test makes of it
    """Return what a program was told."""
    [line] = [line for line in script.decode().splitlines() if line.startswith("order = ")]
    return ast.literal_eval(line.removeprefix("order = "))
