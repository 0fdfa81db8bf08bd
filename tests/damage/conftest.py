"""One keeper for all damage, and the course of each kind of damage."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

from runner.execution.attempt import run_attempt
from runner.execution.cancellation import Cancellation
from runner.execution.log import Log
from runner.execution.marker import Marker
from runner.execution.options import DEFAULTS, Settings
from runner.job import Job
from runner.keeper_leases import KeeperLeases
from runner.outcome import Outcome, Succeeded, exit_code, sentence
from sandbox.errors import Fault
from sandbox.inspection.judge import RULES, ReasonKind
from sandbox.keeper.builder import FAULTS
from sandbox.keeper.protocol import SandboxReport
from sandbox.state import State
from tests.damage.case import RESULT, Case
from tests.e2e.conftest import Keeper, new_keeper
from tests.waiting import until

__all__ = ["new_keeper"]

KEY = "damage"
CONFIG = """
[profiles.default]
memory = "1GiB"
pids = 1024
"""


class Ran(NamedTuple):
    """What came of a job."""

    outcome: Outcome
    output: str


@dataclass(frozen=True)
class Lab:
    """A keeper whose sandboxes are damaged one after the other, by jobs of one trust key."""

    keeper: Keeper
    logs: Path
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _used: list[str] = field(default_factory=list)
    """The sandboxes of the jobs, in their order. No job tells its own: some are gone before it is heard."""

    def run(self, script: str, trust_key: str = KEY, settings: Settings = DEFAULTS) -> Ran:
        """What `runner run` does, without the start of a process, which takes longer than most of these jobs."""
        log = Log(self.logs / str(next(self._numbers)))
        leases, job = KeeperLeases(self.keeper.socket), Job(script.encode(), trust_key=trust_key)

        async def mark(marker: Marker) -> None:
            self._used.append(marker.sandbox)

        outcome = asyncio.run(run_attempt(leases, job, log, Cancellation(), settings=settings, on_start=mark))
        log.close(sentence(outcome))
        return Ran(outcome, log.path.read_bytes()[: log.output].decode(errors="replace"))

    def check(self, case: Case) -> None:
        """Run the case's script, and see its result, what is said of it, and that the next job finds nothing."""
        name = self._damage(case)
        if case.found is None:
            self._check_kept(name)
        else:
            self._check_recreated(name, case.found)
        if case.planted:
            assert self.run(f"({case.planted}) || true") == (Succeeded(), "")

    def _damage(self, case: Case) -> str:
        job = self.run(f"(\n{case.script}\n) >&2 && exit {RESULT}")
        assert exit_code(job.outcome) == case.result, job
        return self._used[-1]

    def _check_kept(self, name: str) -> None:
        found: list[SandboxReport] = []

        def over() -> bool:
            found[:] = [sandbox for sandbox in self.keeper.client.listing().sandboxes if sandbox.name == name]
            return [sandbox.state for sandbox in found] != [State.INSPECTING]

        until(f"{name} was looked at", over)
        assert [sandbox.state for sandbox in found] == [State.READY], self.keeper.client.listing().condemned[0]

    def _check_recreated(self, name: str, expected: ReasonKind | frozenset[Fault]) -> None:
        found: list[SandboxReport] = []

        def condemned() -> bool:
            found[:] = [sandbox for sandbox in self.keeper.client.listing().condemned if sandbox.name == name]
            return bool(found)

        until(f"{name} was condemned", condemned)
        [sandbox] = found
        assert sandbox.reason
        assert sandbox.reason.isprintable()
        if isinstance(expected, frozenset):
            assert sandbox.fault in expected, sandbox.reason
        else:
            rule = RULES[expected]
            assert (sandbox.fault, rule.because in sandbox.reason) == (FAULTS[rule.verdict], True), sandbox.reason


@pytest.fixture(scope="package")
def lab(new_keeper: Callable[..., Keeper], tmp_path_factory: pytest.TempPathFactory) -> Lab:
    keeper = new_keeper(config=CONFIG)
    keeper.start()
    return Lab(keeper, tmp_path_factory.mktemp("logs"))
