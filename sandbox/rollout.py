"""Which image the sandboxes of one profile are made from, while its name may come to mean another one. Pure.

A new image is tried on one sandbox more than the profile asks for. Proven fit, it is the one that sandboxes are made
from, and those from the image before are replaced one by one. Found unfit, it is refused until the name means yet
another one: the image before is only given up for one that works.
"""

from dataclasses import dataclass, field

from sandbox.breaker import Breaker
from sandbox.errors import Fault

_NOT_THE_IMAGE = frozenset(
    {
        Fault.NO_SUBNET,
        Fault.NO_WALLS,
        Fault.HOST_DISK,
        Fault.KEEPER_DEFECT,
        Fault.WRONG_RUNTIME,
        Fault.RUNTIME_LOST,
        Fault.ENGINE_FAILED,  # what it refuses for the image's sake is told apart (`engine.ImageUnfit`)
    }
)
"""Why a sandbox cannot be made, whatever it is made from."""


@dataclass(slots=True)
class Rollout:
    """The images of one profile, by id."""

    image: str
    """What sandboxes are made from."""
    candidate: str | None = None
    """What is tried on one sandbox."""
    refused: str | None = None
    """What was tried and is not fit."""
    trials: Breaker = field(default_factory=Breaker)
    """How making sandboxes from the candidate goes."""

    def named(self, image: str) -> None:
        """The profile's name for its image means this one now."""
        if image in (self.candidate, self.refused):
            return
        # Back to the image in use, there is nothing to try.
        self.candidate = None if image == self.image else image
        self.refused, self.trials = None, Breaker()

    @property
    def sentence(self) -> str:
        """What is wrong with an image that was refused, and what to do about it; empty when none was."""
        if self.refused is None:
            return ""
        return (
            f"The new image {short(self.refused)} is not fit ({self.trials.fault}): {self.trials.reason} "
            f"Sandboxes go on being made from {short(self.image)}. "
            "Build it again, or send the keeper HUP to have it tried again."
        )

    def may_try(self, now: float) -> bool:
        """Whether a sandbox may be made from the candidate: after a failure later and later."""
        return self.candidate is not None and self.trials.may_begin(now)

    def proven(self, image: str) -> None:
        """A sandbox made from this image is fit."""
        if image == self.candidate:
            self.image, self.candidate = image, None

    def failed(self, image: str, began: float, fault: Fault, reason: str, now: float) -> None:
        """One made from this image, begun at `began`, is not fit."""
        if image != self.candidate:
            return
        self.trials.failed(began, fault, reason, now)
        if self.trials.is_open and fault not in _NOT_THE_IMAGE:
            self.candidate, self.refused = None, image

    def forgive(self) -> None:
        """Try again what was refused, as soon as it is named again."""
        self.refused = None


def short(image: str) -> str:
    """An image's id as Docker prints it."""
    return image.removeprefix("sha256:")[:12]
