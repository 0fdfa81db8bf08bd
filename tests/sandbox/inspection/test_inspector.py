"""The inspecting child: it answers in time or not at all, and always about the process that was meant."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections.abc import Callable
from types import ModuleType

import pytest

from sandbox import procfs
from sandbox.errors import Fault, SandboxFault
from sandbox.inspection import gather, inspector
from sandbox.inspection.evidence import Baseline
from sandbox.inspection.judge import ReasonKind, VerdictKind
from tests.sandbox.children import complains, fails, hangs, nonsense
from tests.sandbox.inspection.evidence import READY

SLACK = 1.0


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


Instead = Callable[[ModuleType], None]


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Instead:
    """Lets a test say which child there is instead."""
    return lambda module: monkeypatch.setattr(inspector, "_CHILD", module.__name__)


def reason(baseline: Baseline, deadline: float) -> str:
    """The one reason of a verdict without evidence."""
    verdict = inspector.inspect(baseline, deadline)
    assert verdict.kind is VerdictKind.DAMAGED
    [only] = verdict.reasons
    assert only.kind is ReasonKind.NOT_INSPECTED
    return only.sentence


OURS = Baseline("no such container", os.getpid(), READY)


def test_a_child_that_hangs_is_ended_with_its_time(instead: Instead) -> None:
    instead(hangs)
    began = time.monotonic()
    assert "did not end in time" in reason(OURS, soon(0.3))
    assert time.monotonic() - began < 0.3 + SLACK


def test_a_child_that_prints_nonsense(instead: Instead) -> None:
    instead(nonsense)
    assert "makes no sense" in reason(OURS, soon())


def test_a_child_that_fails_says_why_on_one_line(instead: Instead) -> None:
    instead(fails)
    assert "it ended with 1: no [31m way" in reason(OURS, soon())


def test_a_process_that_cannot_be_seen_is_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(procfs, "read", refused)
    with pytest.raises(OSError, match="Input/output error"):
        list(gather._processes(b"ID"))


def test_a_process_that_took_the_id_of_another_is_not_looked_at() -> None:
    """The trap: process ids are used again, and the evidence would be another sandbox's."""
    assert "first process is gone" in reason(OURS, soon())


def test_a_process_that_is_gone() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert "first process is gone" in reason(Baseline("x", gone.pid, READY), soon())


def test_what_is_no_container_cannot_be_recorded() -> None:
    with pytest.raises(SandboxFault, match="storage driver must be overlay2") as caught:
        inspector.record("no such container", os.getpid(), soon())
    assert caught.value.fault is Fault.DAMAGED


def test_the_layers_are_found_in_the_mount_table() -> None:
    options = "rw,lowerdir=/l/A:/l/B,upperdir=/u,workdir=/w"
    assert gather._layers([[1, "0:1", "/", "/", "rw", "", "overlay", "overlay", options]]) == ("/u", ["/l/A", "/l/B"])
    several = "rw,lowerdir+=/l/A,lowerdir+=/l/B,upperdir=/u"
    assert gather._layers([[1, "0:1", "/", "/", "rw", "", "overlay", "overlay", several]]) == ("/u", ["/l/A", "/l/B"])


@pytest.mark.parametrize("options", ["rw", "rw,lowerdir=l/A,upperdir=x/diff"])
def test_an_engine_with_another_storage_driver_or_relative_paths_is_told(options: str) -> None:
    with pytest.raises(OSError, match="overlay2"):
        gather._layers([[1, "0:1", "/", "/", "rw", "", "ext4", "/dev/x", options]])


def test_the_order_is_json(instead: Instead) -> None:
    instead(complains)
    with pytest.raises(SandboxFault, match='"container": "c0ffee", "pid": '):
        inspector.record("c0ffee", os.getpid(), soon())
