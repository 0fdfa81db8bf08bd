"""A circuit breaker for making sandboxes of one profile: a broken image or setting must not spin. Pure."""

from dataclasses import dataclass, field

from sandbox.errors import Fault

IN_A_ROW = 3
"""Creations that fail with the same fault before every new sandbox counts as failing."""
CALM = 300.0
"""Seconds without trouble after which the back-off starts over."""
MAX_BACK_OFF = 60.0
"""Most seconds between two tries."""


@dataclass(slots=True)
class Breaker:
    """How creations of one profile's sandboxes go, and when the next one may begin."""

    under_way: dict[str, float] = field(default_factory=dict)
    streak: int = 0
    """Failures in a row with the same fault."""
    fault: Fault | None = None
    reason: str = ""
    back_off: int = 0
    not_before: float = 0.0
    last_failure: float = float("-inf")

    @property
    def is_open(self) -> bool:
        """Whether every new sandbox seems to fail."""
        return self.streak >= IN_A_ROW

    def failed(self, began: float, fault: Fault, reason: str, now: float) -> None:
        """Count a failed creation that began at `began`."""
        self.streak = self.streak + 1 if fault is self.fault else 1
        self.fault, self.reason = fault, reason
        if began >= self.last_failure:  # of several begun together, only the first counts
            calm = now - self.last_failure >= CALM
            # The exponent is capped too: a host that stays broken for hours would overflow a float.
            self.back_off = 1 if calm else min(self.back_off + 1, 10)
            self.not_before = now + self.pause
            self.last_failure = now

    def succeeded(self) -> None:
        """Allow the next creation at once. The back-off for the next failure is kept until `CALM` has passed."""
        self.streak, self.fault, self.not_before = 0, None, 0.0

    def may_begin(self, now: float) -> bool:
        """Whether a creation may begin. After a failure only one at a time, with growing pauses."""
        return now >= self.not_before and (self.fault is None or not self.under_way)

    @property
    def pause(self) -> float:
        """Seconds between a failure and the next try."""
        return min(2.0 ** max(self.back_off - 1, 0), MAX_BACK_OFF)

    def sentence(self, profile: str) -> str:
        """Say what is wrong and what to do about it."""
        return (
            f"Every new sandbox of profile {profile} fails, {self.streak} in a row ({self.fault}): {self.reason} "
            f"Look at that profile's image and runtime; it is tried again each {self.pause:.0f} s."
        )
