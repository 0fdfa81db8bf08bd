"""A circuit breaker for making sandboxes of one profile: a broken image or setting must not spin. Pure."""

from dataclasses import dataclass, field

from sandbox.errors import Fault

IN_A_ROW = 3
"""Creations that fail for the same fault before every new sandbox is said to fail."""
CALM = 300.0
"""Seconds without trouble after which back-off begins from its start again."""
MAX_BACK_OFF = 60.0
"""Seconds between two tries, at most."""


@dataclass(slots=True)
class Breaker:
    """How making sandboxes of one profile goes, and when the next one may be begun."""

    under_way: dict[str, float] = field(default_factory=dict)
    streak: int = 0
    """Failures in a row of the same fault."""
    fault: Fault | None = None
    reason: str = ""
    back_off: int = 0
    not_before: float = 0.0
    last_failure: float = float("-inf")

    @property
    def is_open(self) -> bool:
        """Whether every new sandbox fails, as far as one can tell."""
        return self.streak >= IN_A_ROW

    def failed(self, began: float, fault: Fault, reason: str, now: float) -> None:
        """A creation that was begun at `began` failed."""
        self.streak = self.streak + 1 if fault is self.fault else 1
        self.fault, self.reason = fault, reason
        if began >= self.last_failure:  # of several that were begun together, the first one counts for the others
            calm = now - self.last_failure >= CALM
            # The exponent is capped as well: a host that stays broken for hours would overflow a float.
            self.back_off = 1 if calm else min(self.back_off + 1, 10)
            self.not_before = now + self.pause
            self.last_failure = now

    def succeeded(self) -> None:
        """The way is free again; how long to wait after the next failure is kept, until it has been calm."""
        self.streak, self.fault, self.not_before = 0, None, 0.0

    def may_begin(self, now: float) -> bool:
        """Whether one may be begun: after a failure one at a time, later and later."""
        return now >= self.not_before and (self.fault is None or not self.under_way)

    @property
    def pause(self) -> float:
        """Seconds between a failure and the next try."""
        return min(2.0 ** max(self.back_off - 1, 0), MAX_BACK_OFF)

    def sentence(self, profile: str) -> str:
        """What is wrong and what to do about it."""
        return (
            f"Every new sandbox of profile {profile} fails, {self.streak} in a row ({self.fault}): {self.reason} "
            f"Look at that profile's image and runtime; it is tried again each {self.pause:.0f} s."
        )
