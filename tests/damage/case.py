"""One kind of damage: a script that a job could run, and the expected finding."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.errors import Fault
from sandbox.inspection.judge import ReasonKind

RESULT = 7
"""What every script ends with: a result of its own, which no damage may change."""
LOST = 75
"""What `runner run` ends with when the sandbox is lost in the middle."""
DIED = frozenset({Fault.STOPPED, Fault.GONE, Fault.SSH_DEAD, Fault.CONDEMNED_BY_RUNNER})
"""What is said of a sandbox that died of its damage: whoever notices first, keeper or runner."""


@dataclass(frozen=True)
class Case:
    """One kind of damage."""

    name: str
    script: str
    """What the job runs, as `sandbox`; `sudo` makes it root."""
    found: ReasonKind | frozenset[Fault] | None = None
    """The reason that must be given; one of several faults where the sandbox died of it; none where it is cleaned."""
    result: int = RESULT
    planted: str = ""
    """What the next job of the same trust key runs; it prints what is left of the damage, and must print nothing."""

    def __str__(self) -> str:
        return self.name
