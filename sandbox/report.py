"""What the checks of a doctor come to, and how that is told: of this host (`sandbox doctor`), or of a runner. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Unknown:
    """A fact that could not be found out, and why."""

    why: str


class Status(StrEnum):
    """How a check ended. The value is stable: `--json` carries it."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    """It works, and something about it should be known."""
    FAIL = "fail"
    """Sandboxes will not work, or not hold, before this is put right."""
    NOT_CHECKED = "not-checked"
    """Nothing was found out; `seen` says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """What was seen, and what to do about it: the latter only where there is something to do."""

    status: Status
    seen: str
    fix: str = ""


def good(seen: str) -> Result:
    """It is as it should be."""
    return Result(Status.PASS, seen)


def dubious(seen: str, fix: str) -> Result:
    """It works, but."""
    return Result(Status.WARN, seen, fix)


def bad(seen: str, fix: str) -> Result:
    """It does not work."""
    return Result(Status.FAIL, seen, fix)


def unchecked(why: str) -> Result:
    """Nobody could tell."""
    return Result(Status.NOT_CHECKED, why)


@dataclass(frozen=True, slots=True)
class Check(Generic[F]):
    """One check, which judges facts and nothing else. The name is stable, and is its entry's anchor on the page."""

    name: str
    judge: Callable[[F], Result]
    file: str = "docs/doctor.md"

    @property
    def page(self) -> str:
        """Where to read more."""
        return f"{self.file}#{self.name}"


@dataclass(frozen=True, slots=True)
class Found:
    """What one check came to."""

    check: str
    result: Result
    page: str

    @property
    def document(self) -> dict[str, str]:
        """For programs. Stable."""
        result = self.result
        return {
            "check": self.check,
            "status": result.status,
            "seen": result.seen,
            "fix": result.fix,
            "page": self.page,
        }


def run(checks: Sequence[Check[F]], facts: F) -> Iterator[Found]:
    """Every check with its result, in order."""
    for check in checks:
        yield Found(check.name, check.judge(facts), check.page)


def lines(results: Sequence[Found]) -> Iterator[str]:
    """For people."""
    for found in results:
        yield f"{found.result.status:12} {found.check:16} {found.result.seen}"
        if found.result.fix:
            yield f"{'':29} {found.result.fix} ({found.page})"


def failed(results: Sequence[Found]) -> bool:
    """Whether there is something to be put right."""
    return any(found.result.status is Status.FAIL for found in results)
