"""One keeper for all damage, and what each kind has to go through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from sandbox.errors import Fault
from sandbox.inspection.judge import RULES, ReasonKind
from sandbox.keeper.builder import FAULTS
from sandbox.keeper.protocol import SandboxReport
from sandbox.state import State
from tests.damage.case import RESULT, Case
from tests.e2e.conftest import Keeper, new_keeper, run, until

__all__ = ["new_keeper"]

KEY = ("--trust-key", "damage")
CONFIG = """
[profiles.default]
memory = "1GiB"
pids = 1024
"""


@dataclass(frozen=True)
class Lab:
    """A keeper whose sandboxes are damaged one after the other, by jobs of one trust key."""

    keeper: Keeper

    def check(self, case: Case) -> None:
        """Run the case's script, and see its result, what is said of it, and that the next job finds nothing."""
        name = self._damage(case)
        if case.found is None:
            self._check_kept(name)
        else:
            self._check_recreated(name, case.found)
        if case.planted:
            after = run(self.keeper, f"({case.planted}) || true", *KEY)
            assert (after.returncode, after.stdout) == (0, ""), after.stderr

    def _damage(self, case: Case) -> str:
        job = run(self.keeper, f"hostname\n(\n{case.script}\n) >&2 && exit {RESULT}", *KEY)
        assert job.returncode == case.result, job.stdout + job.stderr
        return job.stdout.splitlines()[0]

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


@pytest.fixture(scope="session")
def lab(new_keeper: Callable[..., Keeper]) -> Lab:
    keeper = new_keeper(config=CONFIG)
    keeper.start()
    return Lab(keeper)
