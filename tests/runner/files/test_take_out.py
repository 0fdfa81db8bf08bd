"""Artifacts over a real SSH server: kept files, left-out files, and a sandbox that lies."""

from __future__ import annotations

import os
import socket
import tarfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, get_args

import pytest

from runner.errors import LeaseLostError
from runner.execution import program
from runner.execution.files import bundle, take_out
from runner.execution.files.bundle import Member
from runner.execution.files.jobs import JobFiles, patterns
from runner.execution.files.limits import FileLimits
from runner.execution.session import Session
from runner.outcome import (
    BadRequest,
    BadSource,
    Cancelled,
    Killed,
    Limit,
    Outcome,
    RunnerStopped,
    SandboxLost,
    ScriptFailed,
    SetupFailed,
    Succeeded,
    TimedOut,
)
from runner.source_and_artifacts import Artifacts, When
from tests.runner.conftest import Sandbox

pytestmark = pytest.mark.anyio

NOPE = "An artifact is not kept: nope: nothing in the working folder has such a name."
LIMITS = FileLimits(artifact_bytes=1000, artifact_files=5, artifact_deadline=60.0)


def rules(*paths: str, when: When = When.ALWAYS) -> tuple[Artifacts, ...]:
    return (Artifacts(paths=list(paths), when=when),)


KEPT: Final[dict[Outcome, str]] = {
    Succeeded(): "success always",
    ScriptFailed(1): "failure always",
    Killed(9): "failure always",
    TimedOut(Limit.JOB): "failure always",
    TimedOut(Limit.STEP): "failure always",
    TimedOut(Limit.SETUP): "",
    TimedOut(Limit.QUEUE): "",
    Cancelled("x"): "",
    RunnerStopped("x"): "",
    SandboxLost("x"): "",
    SetupFailed("x"): "",
    BadSource("x"): "",
    BadRequest("x"): "",
}
"""Every way a job can end, and which of the three kinds of rules counts then."""


def test_the_table_has_every_end() -> None:
    assert {type(outcome) for outcome in KEPT} == set(get_args(Outcome))
    assert {outcome.which for outcome in KEPT if isinstance(outcome, TimedOut)} == set(Limit)


@pytest.mark.parametrize(("outcome", "kept"), KEPT.items(), ids=str)
def test_what_is_kept_after_which_end(outcome: Outcome, kept: str) -> None:
    each = [
        Artifacts(paths=["success"], when=When.ON_SUCCESS),
        Artifacts(paths=["failure"], when=When.ON_FAILURE),
        Artifacts(paths=["always"], when=When.ALWAYS),
    ]
    assert patterns(each, outcome) == kept.split()


class Desk:
    """A working folder, and where its artifacts go."""

    def __init__(self, folder: Path, session: Session) -> None:
        self.workspace = folder / "workspace"
        self.workspace.mkdir()
        self.bundle = folder / "kept" / "job"
        self.session = session

    def make(self, **files: str) -> None:
        for name, text in files.items():
            path = self.workspace / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    async def keep(self, *paths: str, limits: FileLimits = LIMITS, secrets: dict[str, str] | None = None) -> list[str]:
        files = JobFiles(rules=rules(*paths), bundle=self.bundle, limits=limits, secrets=secrets or {})
        return await take_out.take_out(self._reach, files, Succeeded(), str(self.workspace))

    async def _reach(self) -> Session:
        return self.session

    @property
    def kept(self) -> dict[str, bytes]:
        with tarfile.open(self.bundle) as tar:
            return {one.name: (file.read() if (file := tar.extractfile(one)) else b"") for one in tar if one.isreg()}


@pytest.fixture
def desk(tmp_path: Path, session: Session) -> Desk:
    return Desk(tmp_path, session)


async def test_files_links_and_whole_folders_are_kept(desk: Desk) -> None:
    desk.make(**{"dist/a": "1", "dist/b/c": "", "report.xml": "r", "other": "o"})
    (desk.workspace / "dist" / "latest").symlink_to("b/../a")
    (desk.workspace / "dist" / "up").symlink_to("../report.xml")
    os.utime(desk.workspace / "report.xml", (1_600_000_000, 1_600_000_000))
    assert await desk.keep("dist", "*.xml") == [
        "An artifact is not kept: dist/latest: it is a link that leads elsewhere."
    ]
    assert desk.kept == {"dist/a": b"1", "dist/b/c": b"", "report.xml": b"r"}
    kept = bundle.read(desk.bundle)
    assert kept is not None
    assert {one.path: one.link for one in kept.members if one.link} == {"dist/up": "../report.xml"}
    assert {one.path: one.changed for one in kept.members}["report.xml"] == 1_600_000_000
    assert desk.session.free


async def test_nothing_is_followed_out_of_the_working_folder(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (desk.workspace / "out").symlink_to(tmp_path)
    (desk.workspace / "file").symlink_to(tmp_path / "secret")
    os.mkfifo(desk.workspace / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(desk.workspace / "socket"))
        told = await desk.keep("out/secret", "file", "pipe", "socket")
    assert told == [
        "An artifact is not kept: file: it is a link that leads elsewhere.",
        "An artifact is not kept: pipe: it is no file.",
        "An artifact is not kept: socket: it is no file.",
        "An artifact is not kept: out/secret: nothing in the working folder has such a name.",
        "There are no artifacts.",
    ]
    assert desk.kept == {}


async def test_names_that_sort_otherwise_as_paths_than_as_names_are_kept(desk: Desk) -> None:
    """The trap: a runner that expects the order of whole paths, where `a.b` comes before `a/b`."""
    deepest = "d/" * 100 + "f"
    desk.make(**{"a/b": "1", "a.b": "2", "a-": "3", "a/b.c/d": "4", "a/b!": "5", "ä/ö": "6", "𝄞": "7", deepest: "8"})
    assert await desk.keep("**", limits=FileLimits()) == []
    assert list(desk.kept) == ["a/b", "a/b!", "a/b.c/d", "a-", "a.b", deepest, "ä/ö", "𝄞"]


async def test_a_pattern_that_nothing_has_is_told(desk: Desk) -> None:
    desk.make(**{"dist/a": "1"})
    (desk.workspace / "empty").mkdir()
    assert await desk.keep("dist", "reports/**/*.xml", "empty", "nope", "nope") == [
        "An artifact is not kept: reports/**/*.xml: nothing in the working folder has such a name.",
        NOPE,
    ]
    assert await desk.keep("empty") == ["There are no artifacts."]


async def test_what_is_too_much_is_left_out_and_told(desk: Desk) -> None:
    desk.make(a="x" * 600, b="x" * 600, c="x" * 300, **{f"d{number}": "" for number in range(30)})
    told = await desk.keep("**")
    assert told[0] == "An artifact is not kept: b: its 600 bytes are more than there is room for."
    assert told[1] == "An artifact is not kept: d11: there are too many files."
    assert told[-1] == "An artifact is not kept: and 8 more."
    assert sorted(desk.kept) == ["a", "c", "d0", "d1", "d10"]


async def test_names_that_are_no_text_are_left_out_and_secrets_in_names_masked(desk: Desk) -> None:
    (desk.workspace / os.fsdecode(b"\xff")).touch()
    (desk.workspace / "line\nfeed").touch()
    (desk.workspace / "swordfish").symlink_to("/")
    told = " ".join(await desk.keep("**", secrets={"S": "swordfish"}))
    assert ("[masked]: it is a link" in told, "swordfish" in told, "\n" in told) == (True, False, False)


async def test_a_working_folder_that_is_gone_is_told(desk: Desk) -> None:
    desk.workspace.rmdir()
    told = await desk.keep("a")
    assert "it cannot be read (No such file or directory)" in told[0]


async def test_a_lost_session_is_replaced_by_another_one(desk: Desk, sandbox: Sandbox) -> None:
    desk.make(a="1")
    sandbox.cut()
    tries = 0

    async def reach() -> Session:
        nonlocal tries
        tries += 1
        return desk.session if tries == 1 else second

    second = await Session.open(sandbox.access(), sandbox.settings())
    files = JobFiles(rules=rules("a"), bundle=desk.bundle, limits=LIMITS)
    assert await take_out.take_out(reach, files, Succeeded(), str(desk.workspace)) == []
    await second.close()
    assert (desk.kept, tries) == ({"a": b"1"}, 2)


async def test_a_sandbox_that_is_gone_is_told(desk: Desk) -> None:
    async def reach() -> Session:
        raise LeaseLostError("The lease is over.")

    files = JobFiles(rules=rules("a"), bundle=desk.bundle, limits=LIMITS)
    told = await take_out.take_out(reach, files, Succeeded(), str(desk.workspace))
    assert told == ["The artifacts are not kept: The lease is over."]


async def test_a_full_disk_is_told(desk: Desk) -> None:
    desk.make(a="1")
    desk.bundle.parent.write_text("no folder")
    told = await desk.keep("a")
    assert told == ["The artifacts are not kept: they cannot be written down (Not a directory)."]


def lie(script: str) -> program.Program:
    """What a hostile sandbox may send, whatever it was asked for."""
    prologue = "import json, os, struct, sys\n"
    prologue += "def say(kind, said): os.write(1, struct.pack('>cI', kind, len(said)) + said)\n"
    prologue += "def send(kind, **said): say(kind, json.dumps(said).encode())\n"
    return program.Program(b"", ("-c", prologue + script))


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("send(b'f', path='../../etc/cron.d/x', pattern=0, size=1)", "not asked for"),
        ("send(b'f', path='b', pattern=0, size=1)", "not asked for"),
        ("send(b'f', path='a', pattern=0, size=5000)", "more than it was asked for"),
        ("[send(b'f', path=f'a/{n}', pattern=0, size=0) for n in range(6)]", "more than it was asked for"),
        ("send(b'f', path='a', pattern=0, size=0); send(b'f', path='a', pattern=0, size=0)", "twice"),
        ("send(b'f', path='a', pattern=0, size=9); os.write(1, b'half')", "stopped in the middle"),
        ("send(b'f', path='a', pattern=0, size=0)", "stopped in the middle"),
        ("os.write(1, b'f' + b'\\xff' * 4)", "not allowed"),
        ("os.write(1, b'f\\0\\0\\0\\x02[]')", "not a JSON object"),
        ("send(b'z', path='a', pattern=0, size=0)", "more than it was asked for"),
        ("import time; time.sleep(60)", "took longer than 1 s"),
        ("os.write(1, b'f\\0\\0\\1\\0'); import time; time.sleep(60)", "took longer than 1 s"),
    ],
)
async def test_whatever_a_sandbox_sends_nothing_is_kept_and_it_is_told(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, script: str, why: str
) -> None:
    monkeypatch.setattr(take_out, "_PROGRAM", lie(script))
    told = await desk.keep("a", limits=replace(LIMITS, artifact_deadline=1.0))
    assert (len(told), why in told[0]) == (1, True), told
    assert not desk.bundle.exists()
    assert bundle.read(desk.bundle) is None


async def test_the_loop_goes_on_while_a_name_is_tried(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: ten thousand names, each against a pattern that takes long, and no heartbeat meanwhile."""
    threads: list[threading.Thread] = []

    def trying(document: Mapping[str, Any], wanted: Sequence[str]) -> Member:
        threads.append(threading.current_thread())
        return bundle.admitted(document, wanted)

    monkeypatch.setattr(take_out, "admitted", trying)
    desk.make(a="1", b="2")
    assert await desk.keep("nope", "b", "?") == [NOPE]
    assert (desk.kept, len(threads)) == ({"a": b"1", "b": b"2"}, 2)
    assert threading.current_thread() not in threads


async def test_what_a_sandbox_says_of_what_it_left_out_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "send(b'd', left_out=10**30, told=['x' * 1000 + chr(27)] * 50)"
    monkeypatch.setattr(take_out, "_PROGRAM", lie(script))
    told = await desk.keep("a")
    assert (len(told), max(map(len, told)) < 600) == (22, True)
    monkeypatch.setattr(take_out, "_PROGRAM", lie("send(b'd', left_out='x', told={})"))
    assert len(await desk.keep("a")) == 1
