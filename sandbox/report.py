"""A doctor's results and their output: for this host (`sandbox doctor`), or for a runner. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Unknown:
    """A fact that could not be found out, with the reason."""

    why: str


class Status(StrEnum):
    """The result of a check. The values are stable: `--json` contains them."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    """It works, but with something to know about."""
    FAIL = "fail"
    """Sandboxes will not work or not hold until this is repaired."""
    NOT_CHECKED = "not-checked"
    """Nothing was found out; `seen` says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """What was seen, and what to do about it, if anything."""

    status: Status
    seen: str
    fix: str = ""


def good(seen: str) -> Result:
    """Pass: it is as it should be."""
    return Result(Status.PASS, seen)


def dubious(seen: str, fix: str) -> Result:
    """Warn: it works, but with something to know about."""
    return Result(Status.WARN, seen, fix)


def bad(seen: str, fix: str) -> Result:
    """Fail: it does not work."""
    return Result(Status.FAIL, seen, fix)


def unchecked(why: str) -> Result:
    """Not checked: nobody could tell."""
    return Result(Status.NOT_CHECKED, why)


@dataclass(frozen=True, slots=True)
class Check(Generic[F]):
    """One check, which judges only facts. The name is stable, and is its entry's anchor on the page."""

    name: str
    judge: Callable[[F], Result]
    file: str = "docs/doctor.md"

    @property
    def page(self) -> str:
        """The page with more about it."""
        return f"{self.file}#{self.name}"


@dataclass(frozen=True, slots=True)
class Found:
    """One check's result."""

    check: str
    result: Result
    page: str

    @property
    def document(self) -> dict[str, str]:
        """The result for programs. Stable."""
        result = self.result
        return {
            "check": self.check,
            "status": result.status,
            "seen": result.seen,
            "fix": result.fix,
            "page": self.page,
        }


def run(checks: Sequence[Check[F]], facts: F) -> Iterator[Found]:
    """Yield every check with its result, in order."""
    for check in checks:
        yield Found(check.name, check.judge(facts), check.page)


def lines(results: Sequence[Found]) -> Iterator[str]:
    """Write the results for people."""
    for found in results:
        yield f"{found.result.status:12} {found.check:16} {found.result.seen}"
        if found.result.fix:
            yield f"{'':29} {found.result.fix} ({found.page})"


def failed(results: Sequence[Found]) -> bool:
    """Whether anything needs repair."""
    return any(found.result.status is Status.FAIL for found in results)
