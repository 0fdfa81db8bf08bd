"""The next act that the pool wants for one of its sandboxes: see `Pool.plan`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Create:
    """Make a new sandbox of this profile, from this image."""

    profile: str
    image: str


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make what the next sandbox of this profile needs, but do not start it."""

    profile: str
    image: str


@dataclass(frozen=True, slots=True)
class Start:
    """Start this prepared sandbox: one is needed."""

    name: str
    profile: str


@dataclass(frozen=True, slots=True)
class Try:
    """Make one sandbox of this profile from a new image, to see whether it is fit."""

    profile: str
    image: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Give up this sandbox, idle or prepared: its profile has a new image."""

    name: str


@dataclass(frozen=True, slots=True)
class Destroy:
    """Remove this sandbox."""

    name: str


@dataclass(frozen=True, slots=True)
class Probe:
    """Prove this idle sandbox again."""

    name: str


Act = Create | Prepare | Start | Try | Replace | Destroy | Probe
