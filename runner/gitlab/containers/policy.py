"""The images that a job may name, and their replacements. Pure.

This policy keeps order and is no wall: a script may use any image with the Docker Engine of its sandbox.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from runner.errors import BadJobError, InputError

_MAX_NAME: Final = 4096
_WILD: Final = {"**": ".*", "*": "[^/]*", "?": "[^/]"}
"""The meaning of a pattern's signs, as in gitlab-runner's `allowed_images`."""


class PullPolicy(StrEnum):
    """When to ask the registry for an image."""

    ALWAYS = "always"
    IF_NOT_PRESENT = "if-not-present"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class ImagePolicy:
    """The operator's rules for images."""

    allowed: tuple[str, ...] = ("**",)
    """Patterns of names as jobs write them: `*` is anything within a part, `**` anything."""
    mapped: tuple[tuple[str, str], ...] = ()
    """Beginnings of names, each with its replacement; the longest one that fits counts."""
    pull: tuple[PullPolicy, ...] = (PullPolicy.ALWAYS,)
    """The policies of jobs that name none, in the order in which they are tried."""

    @classmethod
    def parse(cls, allowed: Iterable[str], mapped: Iterable[str], pull: Iterable[str] = ()) -> Self:
        """Return the policy from the options: patterns, `BEGINNING=REPLACEMENT`, names of pull policies.

        Raises InputError. By default, all images are allowed, none is replaced, and the pull policy is `always`.
        """
        pairs = []
        for text in mapped:
            beginning, equals, replacement = text.partition("=")
            if not (beginning and equals and replacement):
                raise InputError(f"The image mapping {text!r} is not understood. Write BEGINNING=REPLACEMENT.")
            pairs.append((beginning, replacement))
        try:
            policies = tuple(PullPolicy(text) for text in pull)
        except ValueError as error:
            raise InputError(f"{error}: a pull policy is one of {', '.join(PullPolicy)}.") from None
        return cls(tuple(allowed) or ("**",), tuple(pairs), policies or (PullPolicy.ALWAYS,))

    def choose(self, name: str) -> str:
        """Return the image to run for the name that a job gives. Raises BadJobError."""
        if not name or len(name) > _MAX_NAME or not name.isprintable() or " " in name or name.startswith("-"):
            raise BadJobError(f"{name[:80]!r} is not the name of an image. Correct `image:` or `services:`.")
        if not any(_matches(pattern, name) for pattern in self.allowed):
            raise BadJobError(
                f"This runner does not allow the image {name}. Use one of: {', '.join(self.allowed)}; or ask whoever "
                "looks after the runner."
            )
        fitting = [pair for pair in self.mapped if name.startswith(pair[0])]
        beginning, replacement = max(fitting, key=lambda pair: len(pair[0]), default=("", ""))
        return replacement + name[len(beginning) :]

    def pulls(self, wanted: tuple[str, ...]) -> tuple[PullPolicy, ...]:
        """Return a job's pull policies, or the default ones if it names none. Raises BadJobError."""
        try:
            return tuple(PullPolicy(text) for text in wanted) or self.pull
        except ValueError as error:
            raise BadJobError(f"{error}: `pull_policy:` is one of {', '.join(PullPolicy)}.") from None


def _matches(pattern: str, name: str) -> bool:
    parts = re.split(r"(\*\*|\*|\?)", pattern)
    return re.fullmatch("".join(_WILD.get(part) or re.escape(part) for part in parts), name) is not None
