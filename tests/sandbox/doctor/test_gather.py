"""Gathering facts: on a real host, and on hosts where something hangs or is missing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import cast

import pytest

from sandbox import child, daemons
from sandbox.config import KeeperConfig
from sandbox.doctor import canary, gather
from sandbox.doctor.canary import NOT_ASKED, try_one
from sandbox.doctor.checks import KERNEL_LIMITS, run
from sandbox.doctor.facts import Canary, Facts
from sandbox.engine import Engine, EngineFacts
from sandbox.errors import EngineError, EngineTimeout, Fault, SandboxFault
from sandbox.profile import SYSBOX
from sandbox.readiness import Proof
from sandbox.report import Status, Unknown
from tests.sandbox.doctor.test_checks import ENGINE

WANTED = gather.wanted(KeeperConfig())


class StubEngine:
    """Answers, or fails as the test says."""

    def __init__(self, error: EngineError | None = None) -> None:
        self.error = error
        self.asked: list[str] = []
        self.data_root = Path("/")
        self.seen = False

    def _answer(self, what: str) -> None:
        self.asked.append(what)
        if self.error:
            raise self.error

    def shows_its_host(self) -> bool:
        return self.seen

    def about(self) -> EngineFacts:
        self._answer("about")
        return ENGINE

    def image_id(self, image: str) -> str | None:
        self._answer("image")
        return "sha256:1"

    def taken_subnets(self) -> list[IPv4Network]:
        self._answer("subnets")
        return []

    def check(self, runtime: str, image: str) -> None:
        self._answer("check")

    def remove(self, installation: str) -> int:
        self._answer("remove")
        return 0


def look(engine: StubEngine) -> Facts:
    return gather.gather(WANTED, cast(Engine, engine), NOT_ASKED)


def test_an_engine_that_hangs_is_waited_for_once_and_the_rest_is_told() -> None:
    engine = StubEngine(EngineTimeout("It hangs."))
    facts = look(engine)
    assert engine.asked == ["about"]
    assert facts.engine == facts.images == facts.subnets == facts.room == Unknown("It hangs.")
    assert facts.kernel == os.uname().release
    assert not isinstance(facts.controllers, Unknown)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a sysbox-runc of its own."""

    def make(script: str) -> None:
        path = tmp_path / SYSBOX
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return make


def test_a_program_that_hangs_is_no_end_of_the_others(
    program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: with a hung sysbox-fs, its programs do not even die."""
    program("exec sleep 1000")
    monkeypatch.setattr(gather, "DEADLINE", 0.5)
    monkeypatch.setattr(StubEngine, "about", lambda _: EngineFacts("26.1", "overlay2", False, {}, "2", Path("/")))
    monkeypatch.setattr(child, "ask", lambda *_: b'{"size": [1, 2], "free": [1, 2], "device": 3}')
    facts = look(StubEngine())
    hung = facts.sysbox[SYSBOX]
    assert isinstance(hung, Unknown)
    assert "did not answer within 0.5 s" in hung.why
    assert not isinstance(facts.room, Unknown)
    assert not isinstance(facts.images, Unknown)


def test_the_version_comes_from_the_registered_program_and_is_bounded(
    program: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("printf 'version: 0.7.1\\n'; head -c 1000000 /dev/zero | tr '\\0' x")
    told = gather._version_of(SYSBOX, Unknown("No engine."))
    assert (told.startswith("version: 0.7.1\n"), len(told)) == (True, 4096)
    registered = replace(ENGINE, runtimes={SYSBOX: str(tmp_path / SYSBOX)})
    monkeypatch.setenv("PATH", "/usr/bin")
    assert gather._version_of(SYSBOX, registered) == told
    with pytest.raises(OSError, match="no program sysbox-fs to be asked here"):
        gather._version_of("sysbox-fs", registered)


def test_daemons_are_told_of_only_where_the_host_is_to_be_seen() -> None:
    """The trap: in a container of its own, no process of the host is there, and sysbox runs all the same."""
    engine = StubEngine()
    assert isinstance(look(engine).daemons, Unknown)
    engine.seen = True
    assert look(engine).daemons == daemons.running(daemons.SERVICES[SYSBOX].programs)


def test_a_file_system_that_is_not_there(tmp_path: Path) -> None:
    room = gather._room(tmp_path)
    assert room.size.bytes >= room.free.bytes > 0
    assert room.device == tmp_path.stat().st_dev
    with pytest.raises(OSError, match="No such file"):
        gather._room(tmp_path / "none")


def test_a_file_system_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def hangs(*_: object) -> bytes:
        raise child.NoAnswer("it did not end in time")

    monkeypatch.setattr("sandbox.child.ask", hangs)
    with pytest.raises(OSError, match="did not end in time"):
        gather._room(tmp_path)


def test_the_kernels_tables(tmp_path: Path) -> None:
    (tmp_path / "cgroups").write_text("#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t5\t1\nmemory\t0\t5\t0\n")
    assert gather.controllers(tmp_path / "none", tmp_path / "cgroups") == {"cpu"}
    (tmp_path / "route").write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"
    )
    assert gather.routes(tmp_path / "route") == (IPv4Network("192.0.2.0/24"),)


def test_the_kernels_limits(tmp_path: Path) -> None:
    for number, name in enumerate(KERNEL_LIMITS):
        file = tmp_path / name.replace(".", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{number}\n")
    assert list(gather.kernel_limits(tmp_path).values()) == list(range(len(KERNEL_LIMITS)))
    assert all(value > 0 for value in gather.kernel_limits(Path("/proc/sys")).values())


def test_on_cgroup_v2_its_own_list_counts(tmp_path: Path) -> None:
    """The trap: a kernel without version 1 lists neither memory nor cpuset in /proc/cgroups."""
    (tmp_path / "cgroups").write_text("#subsys_name\thierarchy\tnum_cgroups\tenabled\npids\t0\t5\t1\n")
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids rdma misc\n")
    found = gather.controllers(tmp_path / "cgroup.controllers", tmp_path / "cgroups")
    assert found >= {"cpu", "cpuset", "memory", "pids"}


def test_a_canary_that_cannot_be_made_is_a_finding() -> None:
    engine = StubEngine(EngineError("The engine says no."))
    found = try_one(KeeperConfig(), "default", cast(Engine, engine))
    assert (found.fault, found.complaint, found.left) == (
        Fault.ENGINE_FAILED,
        "The engine says no.",
        "The engine says no.",
    )
    assert engine.asked[-1] == "remove"


class StubBuilder:
    """Makes a sandbox that is fit, and fails where the test says."""

    def __init__(self, build: SandboxFault | None = None, look: EngineError | SandboxFault | None = None) -> None:
        self.failures = {"build": build, "look": look}

    def _fail(self, what: str) -> None:
        if error := self.failures[what]:
            raise error

    def build(self, *_: object, started: object) -> object:
        self._fail("build")
        return None

    def prove_after_job(self, built: object) -> None:
        self._fail("look")


def tried(builder: StubBuilder, monkeypatch: pytest.MonkeyPatch) -> Canary:
    monkeypatch.setattr(canary, "Builder", lambda *_: builder)
    monkeypatch.setattr(canary, "_use", lambda _: Proof("26.1.5", time.time()))
    return try_one(KeeperConfig(), "default", cast(Engine, StubEngine()))


def test_a_canary_is_judged_after_its_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: a host on which nothing can be looked at passed, and every job there ended damaged."""
    for error in (SandboxFault(Fault.DAMAGED, "It could not be looked at."), EngineTimeout("It does not freeze.")):
        found = tried(StubBuilder(look=error), monkeypatch)
        assert (found.fault, found.docker_version, found.inspection) == (None, "26.1.5", str(error))
    assert tried(StubBuilder(), monkeypatch).inspection == ""


def test_a_canary_that_cannot_be_recorded_was_logged_in_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for fault in (Fault.DAMAGED, Fault.UNFREEZABLE):
        found = tried(StubBuilder(build=SandboxFault(fault, "It could not be recorded.")), monkeypatch)
        assert found == Canary(inspection="It could not be recorded.")
    found = tried(StubBuilder(build=SandboxFault(Fault.SSH_DEAD, "No answer.")), monkeypatch)
    assert found == Canary(fault=Fault.SSH_DEAD, complaint="No answer.")


def test_nothing_of_a_real_host_is_beyond_judging() -> None:
    results = {found.check: found.result for found in run(look(StubEngine()))}
    assert results["cgroups"].status in (Status.PASS, Status.FAIL)
    assert results["walls"].seen
