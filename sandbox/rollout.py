"""The image that one profile's sandboxes are made from, while its name may come to mean another. Pure.

A new image is tried on one extra sandbox. If that is proven fit, new sandboxes are made from the new image, and older
ones are replaced one by one. If it is unfit, the image is refused until the name means yet another one: only an image
that works replaces the old one.
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
        Fault.ENGINE_FAILED,  # a refusal of the image has an error of its own (`engine.ImageUnfit`)
    }
)
"""Causes of a failed creation that are not the image's fault."""


@dataclass(slots=True)
class Rollout:
    """The images of one profile, by id."""

    image: str
    """The image that sandboxes are made from."""
    candidate: str | None = None
    """The image that is tried on one sandbox."""
    refused: str | None = None
    """The image that was tried and is unfit."""
    trials: Breaker = field(default_factory=Breaker)
    """How creations from the candidate went."""

    def named(self, image: str) -> None:
        """Record that the profile's image name means this image now."""
        if image in (self.candidate, self.refused):
            return
        # If the name means the image in use again, there is nothing to try.
        self.candidate = None if image == self.image else image
        self.refused, self.trials = None, Breaker()

    @property
    def sentence(self) -> str:
        """Say what is wrong with the refused image and what to do about it; empty when none was refused."""
        if self.refused is None:
            return ""
        return (
            f"The new image {short(self.refused)} is not fit ({self.trials.fault}): {self.trials.reason} "
            f"Sandboxes go on being made from {short(self.image)}. "
            "Build it again, or send the keeper HUP to have it tried again."
        )

    def may_try(self, now: float) -> bool:
        """Whether a sandbox may be made from the candidate. After each failure, the wait grows."""
        return self.candidate is not None and self.trials.may_begin(now)

    def proven(self, image: str) -> None:
        """Record that a sandbox made from this image is fit."""
        if image == self.candidate:
            self.image, self.candidate = image, None

    def failed(self, image: str, began: float, fault: Fault, reason: str, now: float) -> None:
        """Record that a sandbox made from this image, begun at `began`, is unfit."""
        if image != self.candidate:
            return
        self.trials.failed(began, fault, reason, now)
        if self.trials.is_open and fault not in _NOT_THE_IMAGE:
            self.candidate, self.refused = None, image

    def forgive(self) -> None:
        """Let the refused image be tried again as soon as it is named again."""
        self.refused = None


def short(image: str) -> str:
    """Return an image's id as Docker prints it."""
    return image.removeprefix("sha256:")[:12]
