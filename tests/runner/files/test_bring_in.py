"""A job's source, over a real SSH server: from a real git, a real web server, and from archives of all kinds."""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import io
import os
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

import pytest

from runner.errors import ConnectionLostError, SourceError, StateError
from runner.execution.files.bring_in import bring_in
from runner.execution.files.inside import fetch
from runner.execution.files.jobs import JobFiles
from runner.execution.files.limits import FileLimits
from runner.execution.session import Session
from runner.source_and_artifacts import Archive, Git, Upload
from tests.runner.conftest import SSHD, Sandbox
from tests.runner.files.origin import TOKEN, Origin, git, silent
from tests.waiting import eventually, until

pytestmark = pytest.mark.anyio

UPLOAD = Upload(id="0" * 32)
LIMITS = FileLimits(source_deadline=60.0, source_bytes=1000, source_files=10, archive_bytes=100_000)


def packed(files: dict[str, str]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return content.getvalue()


def private_files() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}


# -- git ------------------------------------------------------------------------------------------------------------


def over_http(origin: Origin, commit: str, **more: object) -> JobFiles:
    source = Git(url=f"{origin.url}/app.git", commit=commit, token="TOKEN", **more)  # type: ignore[arg-type]
    return JobFiles(source, secrets={"TOKEN": TOKEN}, limits=LIMITS)


@pytest.mark.parametrize("number", [0, 1])
async def test_exactly_the_commit_is_there_and_no_credential_is_left(
    session: Session, origin: Origin, workspace: Path, number: int
) -> None:
    before = private_files()
    workspace.mkdir()
    (workspace / "left").touch()
    await bring_in(session, over_http(origin, origin.commits[number]), str(workspace))
    assert (workspace / "file").read_text() == ["first\n", "second\n"][number]
    assert git(workspace, "rev-parse", "HEAD") == origin.commits[number]
    assert not (workspace / "left").exists()
    assert TOKEN not in (workspace / ".git" / "config").read_text()
    assert private_files() <= before
    assert session.free


async def test_history_comes_when_it_is_asked_for(session: Session, origin: Origin, workspace: Path) -> None:
    await bring_in(session, over_http(origin, origin.commits[1], depth=0), str(workspace))
    assert git(workspace, "log", "--format=%H").split() == origin.commits[::-1]


async def test_a_commit_that_the_server_does_not_have_is_told(
    session: Session, origin: Origin, workspace: Path
) -> None:
    with pytest.raises(SourceError, match=r"gives no commit 0{40} by its hash"):
        await bring_in(session, over_http(origin, "0" * 40), str(workspace))
    with pytest.raises(SourceError, match=r"The commit 0{40} is not there: the ref does not have it"):
        await bring_in(session, over_http(origin, "0" * 40, ref="main"), str(workspace))


def test_a_commit_that_is_not_given_by_its_hash_comes_with_its_ref(tmp_path: Path, origin: Origin) -> None:
    """The trap: servers of the older protocol give only what a ref points to."""
    wanted = {"url": f"{origin.url}/app.git", "token": TOKEN, "user": "oauth2", "key": None, "depth": 1, "ref": "main"}
    fetching = fetch.Git({**wanted, "commit": origin.commits[0]}, tmp_path / "w", tmp_path)
    fetching.options += ["-c", "protocol.version=0"]
    (tmp_path / "w").mkdir()
    fetching.check_out()
    assert (tmp_path / "w" / "file").read_text() == "first\n"


async def test_a_refused_login_is_told_without_the_token(session: Session, origin: Origin, workspace: Path) -> None:
    files = replace(over_http(origin, origin.commits[0]), secrets={"TOKEN": "another-token"})
    with pytest.raises(SourceError, match=r"git could not fetch the commit: .*Authentication failed") as refused:
        await bring_in(session, files, str(workspace))
    assert "another-token" not in str(refused.value)


async def test_what_a_server_says_of_a_secret_is_masked(session: Session, origin: Origin, workspace: Path) -> None:
    origin.files.clear()
    secrets = {"TOKEN": TOKEN, "OTHER": "app.git-and-more"}
    source = Git(url=f"{origin.url}/app.git-and-more", commit=origin.commits[0], token="TOKEN")
    with pytest.raises(SourceError, match=r"/\[masked\]"):
        await bring_in(session, JobFiles(source, secrets=secrets, limits=LIMITS), str(workspace))


async def test_a_host_that_hangs_is_given_up_with_a_sentence(session: Session, workspace: Path) -> None:
    with silent() as host:
        port = host.getsockname()[1]
        source = Git(url=f"http://127.0.0.1:{port}/app.git", commit="0" * 40)
        files = JobFiles(source, limits=replace(LIMITS, source_deadline=1.0))
        with pytest.raises(SourceError, match="did not arrive within 1 s"):
            await bring_in(session, files, str(workspace))
    assert session.free


def in_memory(secret: str) -> bool:
    for path in Path("/dev/shm").glob("tmp*/login"):
        with suppress(OSError):  # somebody else's, or gone meanwhile
            if secret in path.read_text():
                return True
    return False


async def test_no_credential_outlives_a_host_that_hangs(session: Session, workspace: Path) -> None:
    """The trap: an alarm ends a program at once, and what it would remove at its end stays."""
    token = token_hex()
    with silent() as host:
        source = Git(url=f"http://127.0.0.1:{host.getsockname()[1]}/app.git", commit="0" * 40, token="TOKEN")
        files = JobFiles(source, secrets={"TOKEN": token}, limits=replace(LIMITS, source_deadline=4.0))
        fetching = asyncio.create_task(bring_in(session, files, str(workspace)))
        host.settimeout(20)
        connection, _ = await asyncio.to_thread(host.accept)
        with connection:
            assert in_memory(token)
            with pytest.raises(SourceError, match="did not arrive within 4 s"):
                await fetching
            await eventually(lambda: not in_memory(token))


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def ssh_port(sshd: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    command = [SSHD, "-D", "-e", "-p", str(port), "-o", "ListenAddress=127.0.0.1", "-f", str(sshd / "config")]
    with subprocess.Popen([*command, "-o", f"PidFile={sshd}/pid"]) as server:
        until("the SSH server listens", lambda: listens(port))
        yield port
        server.terminate()


async def test_git_over_ssh_believes_only_the_host_key_that_was_given(
    session: Session, origin: Origin, workspace: Path, sshd: Path, ssh_port: int
) -> None:
    before = private_files()
    host = f"[127.0.0.1]:{ssh_port}"
    keys = [f"{host} {(sshd / 'host_key.pub').read_text().strip()}"]
    secrets = {"KEY": (sshd / "client_key").read_text().replace("\n", "\r\n")}
    url = f"ssh://{getpass.getuser()}@127.0.0.1:{ssh_port}{origin.bare}"
    source = Git(url=url, commit=origin.commits[1], key="KEY", host_keys=keys)
    await bring_in(session, JobFiles(source, secrets=secrets, limits=LIMITS), str(workspace))
    assert (workspace / "file").read_text() == "second\n"
    wrong = [f"{host} {(sshd / 'client_key.pub').read_text().strip()}"]
    source = source.model_copy(update={"host_keys": wrong})
    with pytest.raises(SourceError, match="Host key verification failed"):
        await bring_in(session, JobFiles(source, secrets=secrets, limits=LIMITS), str(workspace))
    assert private_files() <= before


# -- archives -------------------------------------------------------------------------------------------------------


def at(origin: Origin, content: bytes, path: str = "/a.tar.gz", **more: str) -> JobFiles:
    origin.files["/a.tar.gz"] = content
    digest = hashlib.sha256(content).hexdigest()
    source = Archive.model_validate({"url": f"{origin.url}{path}", "sha256": digest, **more})
    return JobFiles(source, secrets={"TOKEN": TOKEN}, limits=LIMITS)


async def test_an_archive_is_fetched_and_unpacked(session: Session, origin: Origin, workspace: Path) -> None:
    await bring_in(session, at(origin, packed({"a/b": "text"}), token="TOKEN"), str(workspace))
    assert (workspace / "a" / "b").read_text() == "text"
    assert origin.asked == [("/a.tar.gz", f"Bearer {TOKEN}")]
    assert sorted(path.name for path in workspace.parent.iterdir()) == ["workspace"]


async def test_the_token_does_not_go_where_the_address_leads(session: Session, origin: Origin, workspace: Path) -> None:
    files = at(origin, packed({"a": "text"}), f"/to/{origin.url}/a.tar.gz", token="TOKEN")
    await bring_in(session, files, str(workspace))
    assert origin.asked[1] == ("/a.tar.gz", "")


@pytest.mark.parametrize(
    ("path", "more", "why"),
    [
        ("/a.tar.gz", {"sha256": "0" * 64}, "its SHA-256 is not the one"),
        ("/none", {}, "answered 404 Not Found"),
        ("/to/file:///etc/passwd", {}, "is not allowed"),
    ],
)
async def test_archives_that_are_refused(
    session: Session, origin: Origin, workspace: Path, path: str, more: dict[str, str], why: str
) -> None:
    with pytest.raises(SourceError, match=why):
        await bring_in(session, at(origin, packed({"a": "text"}), path, **more), str(workspace))


async def test_an_archive_that_is_too_large_is_not_read_to_its_end(
    session: Session, origin: Origin, workspace: Path
) -> None:
    with pytest.raises(SourceError, match="more than 100000 bytes"):
        await bring_in(session, at(origin, os.urandom(200_000)), str(workspace))


async def test_nobody_there_is_told(session: Session, origin: Origin, workspace: Path) -> None:
    with silent() as host:
        port = host.getsockname()[1]
    files = at(origin, b"x", url=f"http://127.0.0.1:{port}/a")
    with pytest.raises(SourceError, match=r"could not be fetched: .*refused"):
        await bring_in(session, files, str(workspace))


async def test_an_upload_is_unpacked(session: Session, tmp_path: Path, workspace: Path) -> None:
    (tmp_path / "sent").write_bytes(packed({"a": "text"}))
    await bring_in(session, JobFiles(UPLOAD, tmp_path / "sent", limits=LIMITS), str(workspace))
    assert (workspace / "a").read_text() == "text"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (packed({"../up": "x"}), "lies outside"),
        (packed({"bomb": "x" * 5000}), "more than 1000 bytes"),
        (b"no archive", "no tar archive"),
    ],
    ids=["outside", "bomb", "none"],
)
async def test_an_upload_that_is_not_safe_is_refused(
    session: Session, tmp_path: Path, workspace: Path, content: bytes, why: str
) -> None:
    (tmp_path / "sent").write_bytes(content)
    with pytest.raises(SourceError, match=why):
        await bring_in(session, JobFiles(UPLOAD, tmp_path / "sent", limits=LIMITS), str(workspace))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sent", "workspace"]


async def test_an_upload_that_is_gone_is_told(session: Session, tmp_path: Path, workspace: Path) -> None:
    with pytest.raises(StateError, match="Send it again"):
        await bring_in(session, JobFiles(UPLOAD, tmp_path / "none", limits=LIMITS), str(workspace))


async def test_a_lost_connection_is_no_fault_of_the_source(
    sandbox: Sandbox, session: Session, tmp_path: Path, workspace: Path
) -> None:
    (tmp_path / "sent").write_bytes(packed({"a": "text"}))
    sandbox.cut()
    with pytest.raises(ConnectionLostError):
        await bring_in(session, JobFiles(UPLOAD, tmp_path / "sent", limits=LIMITS), str(workspace))
