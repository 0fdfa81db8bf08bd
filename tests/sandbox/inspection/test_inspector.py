"""The child that looks: it answers in time or not at all, and what it says is about the process that was meant."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox import child
from sandbox.errors import Fault, SandboxFault
from sandbox.inspection import gather, inspector
from sandbox.inspection.evidence import Baseline
from sandbox.inspection.judge import ReasonKind, VerdictKind
from tests.sandbox.inspection.evidence import READY

SLACK = 1.0


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Lets a test say what the child does instead."""
    return monkeypatch


def reason(baseline: Baseline, deadline: float) -> str:
    """The one reason of a verdict without evidence."""
    verdict = inspector.inspect(baseline, deadline)
    assert verdict.kind is VerdictKind.DAMAGED
    [only] = verdict.reasons
    assert only.kind is ReasonKind.NOT_INSPECTED
    return only.sentence


OURS = Baseline("no such container", os.getpid(), READY)


def test_a_child_that_hangs_is_ended_with_its_time(instead: pytest.MonkeyPatch) -> None:
    instead.setattr(child, "_CODE", "import time; time.sleep(60)")
    began = time.monotonic()
    assert "did not end in time" in reason(OURS, soon(0.3))
    assert time.monotonic() - began < 0.3 + SLACK


def test_a_child_that_prints_nonsense(instead: pytest.MonkeyPatch) -> None:
    instead.setattr(child, "_CODE", "print('{\"x\": 1}')")
    assert "makes no sense" in reason(OURS, soon())


def test_a_child_that_fails_says_why_on_one_line(instead: pytest.MonkeyPatch) -> None:
    instead.setattr(child, "_CODE", "import sys; sys.exit('a\\nno\\x1b[31m way')")
    assert "it ended with 1: no [31m way" in reason(OURS, soon())


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


def test_nothing_is_left_of_a_child_that_hung(instead: pytest.MonkeyPatch) -> None:
    instead.setattr(child, "_CODE", "import time; time.sleep(60)")
    open_before, children_before = len(list(Path("/proc/self/fd").iterdir())), _children()
    reason(OURS, soon(0.1))
    end = soon(5)
    while _children() - children_before and time.monotonic() < end:
        time.sleep(0.01)
    assert _children() <= children_before
    assert len(list(Path("/proc/self/fd").iterdir())) <= open_before


def _children() -> set[str]:
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


def test_the_child_starts_quickly() -> None:
    """Its start is most of an inspection: whoever imports something heavy there finds out here."""
    code = f"import sys;sys.path.append({child._ROOT!r});from sandbox.inspection import gather;print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=20, check=True
    )
    assert not {"pydantic", "dataclasses", "pathlib", "subprocess", "asyncio", "inspect"} & set(done.stdout.split())


def test_the_layers_are_found_in_the_mount_table() -> None:
    options = "rw,lowerdir=/l/A:/l/B,upperdir=/u,workdir=/w"
    assert gather._layers([[1, "0:1", "/", "/", "rw", "", "overlay", "overlay", options]]) == ("/u", ["/l/A", "/l/B"])
    several = "rw,lowerdir+=/l/A,lowerdir+=/l/B,upperdir=/u"
    assert gather._layers([[1, "0:1", "/", "/", "rw", "", "overlay", "overlay", several]]) == ("/u", ["/l/A", "/l/B"])


@pytest.mark.parametrize("options", ["rw", "rw,lowerdir=l/A,upperdir=x/diff"])
def test_an_engine_with_another_storage_driver_or_relative_paths_is_told(options: str) -> None:
    with pytest.raises(OSError, match="overlay2"):
        gather._layers([[1, "0:1", "/", "/", "rw", "", "ext4", "/dev/x", options]])


def test_the_order_is_json(instead: pytest.MonkeyPatch) -> None:
    instead.setattr(child, "_CODE", "import sys; sys.exit(sys.stdin.read())")
    with pytest.raises(SandboxFault, match='"container": "c0ffee", "pid": '):
        inspector.record("c0ffee", os.getpid(), soon())
