"""Sources and artifacts are checked as soon as a job is read; mistakes are told by line and field."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from runner import job_document
from runner.errors import BadJobError
from runner.job import Job, from_json, to_json
from runner.source_and_artifacts import MAX_RULES, Archive, Artifacts, Git, Upload, When, credentials

COMMIT = "a" * 40
KEYS = ["host ssh-ed25519 AAAA"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: {kind: tape}", "f:2:1: source: must have a `kind`"),
        ("source:\n  kind: git\n  url: https://h/r\n  commit: abc", "f:5:3: source.commit: must match"),
        ("source:\n  kind: git\n  url: https://h/r", "f:2:1: source.commit: must be given"),
        ("source:\n  kind: upload\n  id: x", "f:4:3: source.id: must match"),
        ("source:\n  kind: upload\n  ID: x", "f:2:1: source.id: must be given"),
        ("source:\n  kind: archive\n  url: ftp://h/a\n  sha256: x", "f:4:3: source.url: Give an address"),
        ("artifacts:\n- paths: [a]\n- paths: [b, ../x]", "f:4:14: artifacts.1.paths.1: Artifacts lie beneath"),
        ("artifacts:\n- paths: [/etc]", "f:3:11: artifacts.0.paths.0: Artifacts lie beneath"),
        ("artifacts:\n- paths: []", "f:3:3: artifacts.0.paths: must have at least 1 item."),
        ("artifacts:\n- paths: [a]\n  when: never", "f:4:3: artifacts.0.when: Give one of on_success, on_failure"),
        ("artifacts:\n- path: [a]", "artifacts.0.paths: must be given"),
    ],
)
def test_a_job_file_says_where_it_is_wrong(text: str, message: str) -> None:
    with pytest.raises(BadJobError) as refused:
        job_document.parse(f"script: echo\n{text}\n".encode(), "f")
    assert str(refused.value).startswith(message) or message in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://host/group/app.git",
        "http://host:8080/app",
        "ssh://git@host:2222/app.git",
        "git@host.example:group/app.git",
    ],
)
def test_addresses_of_git_that_are_taken(url: str) -> None:
    ssh = {} if url.startswith("http") else {"key": "KEY", "host_keys": KEYS}
    assert Git(url=url, commit=COMMIT, **ssh).url == url  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "app.git",
        "/srv/app.git",
        "file:///srv/app.git",
        "ext::sh -c id",
        "--upload-pack=id",
        "-oProxyCommand=id@host:x",
        "git@-oProxyCommand=id:x",
        "ssh://-oProxyCommand=id/x",
        "https://user:word@host/app",
        "https://token@host/app",
        "https://host/a b",
        "https://host/\n",
        "https://[::1/x",
        "https://host:port/x",
        "https://h/" + "x" * 2000,
    ],
)
def test_addresses_of_git_that_are_refused(url: str) -> None:
    """The trap: git runs commands that an address names, and an address with a login in it is shown in logs."""
    with pytest.raises(ValidationError):
        Git(url=url, commit=COMMIT, key="KEY", host_keys=KEYS)
    with pytest.raises(ValidationError):
        Git(url=url, commit=COMMIT)


@pytest.mark.parametrize("ref", ["-x", "a b", "a:b", "*", "", "x" * 300])
def test_refs_that_are_refused(ref: str) -> None:
    with pytest.raises(ValidationError):
        Git(url="https://h/r", commit=COMMIT, ref=ref)


@pytest.mark.parametrize(
    "more",
    [
        {"url": "ssh://h/r"},
        {"url": "ssh://h/r", "key": "KEY"},
        {"url": "ssh://h/r", "key": "KEY", "host_keys": KEYS, "token": "T"},
        {"url": "ssh://h/r", "key": "KEY", "host_keys": ["a\nb"]},
        {"url": "https://h/r", "key": "KEY"},
        {"url": "https://h/r", "host_keys": KEYS},
    ],
)
def test_a_way_in_that_does_not_fit_the_address_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="host_keys"):
        Git.model_validate({"commit": COMMIT, **more})


def test_what_a_source_needs_is_a_secret_of_the_job() -> None:
    git = Git(url="https://h/r", commit=COMMIT, token="TOKEN")
    archive = Archive(url="https://h/r", sha256="0" * 64, token="TOKEN")
    for source in (git, archive):
        assert credentials(source) == ["TOKEN"]
        with pytest.raises(BadJobError, match="source: The source names the secret TOKEN, and the job has none"):
            Job(b"true", source=source, environment={"TOKEN": "not masked"})
        with pytest.raises(BadJobError, match="TOKEN is no token"):
            Job(b"true", source=source, secrets={"TOKEN": "two\nlines"})
    assert credentials(Upload(id="0" * 32)) == credentials(None) == []


def test_too_many_rules_are_refused() -> None:
    with pytest.raises(BadJobError, match="rules for artifacts"):
        Job(b"true", artifacts=(Artifacts(paths=["a"]),) * (MAX_RULES + 1))


@pytest.mark.parametrize(
    "source",
    [
        None,
        Upload(id="0" * 32),
        Archive(url="https://h/r", sha256="0" * 64),
        Git(url="git@h:r", commit=COMMIT, key="KEY", host_keys=KEYS, ref="main", depth=0),
    ],
    ids=lambda source: getattr(source, "kind", "none"),
)
def test_a_job_is_the_same_after_it_was_written_down(source: Upload | Git | Archive | None) -> None:
    rules = (Artifacts(paths=["**"], when=When.ALWAYS), Artifacts(paths=["a", "b"]))
    job = Job(b"true", secrets={"KEY": "secret-key"}, source=source, artifacts=rules)
    assert from_json(to_json(job)) == job


def test_a_job_that_an_earlier_version_wrote_down_can_be_read() -> None:
    document = to_json(Job(b"true"))
    del document["source"], document["artifacts"]
    assert from_json(document) == Job(b"true")


@pytest.mark.parametrize("more", [{"source": 1}, {"source": {"kind": "x"}}, {"artifacts": {}}, {"artifacts": [1]}])
def test_a_record_with_something_else_is_none(more: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="record"):
        from_json({**to_json(Job(b"true")), **more})
