"""docs/outcomes.md, made from the table of outcomes. `python -m tests.docs.outcomes` writes it."""

from __future__ import annotations

from typing import Final

from runner import outcome
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
from tests.docs.pages import ROOT

PAGE: Final = ROOT / "docs" / "outcomes.md"
EXAMPLES: Final[tuple[Outcome, ...]] = (
    Succeeded(),
    ScriptFailed(3),
    Killed(9),
    *(TimedOut(limit) for limit in Limit),
    Cancelled("ci"),
    SandboxLost("Its container does not run any more."),
    SetupFailed("No sandbox of profile default was ready within 600 s."),
    RunnerStopped("it was told to stop at once."),
    BadRequest("The script is empty."),
    BadSource("The commit is not there."),
)
"""One of each kind, with what a reader would see."""
_HEAD: Final = """# Outcomes

A job or `runner run` ends with one of these outcomes. Tell them apart by name, because a script may exit with any
number itself. The [runbook](runbook.md) says what to do about each, [job-contract.md](job-contract.md) what a script
can rely on. This page is made from `runner/outcome.py`.

| name | means | exit code | for example |
|---|---|---|---|
"""


def page() -> str:
    """The page as it should be."""
    rows = []
    for example in EXAMPLES:
        means = " ".join((type(example).__doc__ or "").split())
        code = {"script_failed": "the script's", "killed": "128 + the signal"}.get(outcome.name(example))
        name, said = outcome.name(example), outcome.sentence(example)
        rows.append(f"| `{name}` | {means} | {code or outcome.exit_code(example)} | {said} |\n")
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page())
