"""What a check comes to. Vocabulary."""

from dataclasses import dataclass
from enum import StrEnum


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
