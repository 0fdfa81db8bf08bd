"""The names under which a job reaches its services. Pure.

The rules are those of gitlab-runner (`helpers/container/services`): the image's name without registry port, tag and
digest, with its slashes as `__` and as `-`, and then the aliases that the job gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from runner.errors import BadJobError

_REFERENCE: Final = re.compile(
    r"(?P<host>[^/:@]*)(?P<port>:[0-9]+(?=/))?(?P<path>[^:@]*)(:[^/:@]+)?(@[^/@]+)?", re.ASCII
)
_HOST: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?", re.ASCII)


def aliases(image: str, given: Sequence[str]) -> tuple[str, ...]:
    """Return the names of one service, in order and each once. Raises BadJobError."""
    for alias in given:
        if not _HOST.fullmatch(alias):
            raise BadJobError(f"The service {image} has the alias {alias[:80]!r}, which is no host name. Correct it.")
    return tuple(dict.fromkeys((*_of_image(image), *given)))


def first_come(claims: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the names that each service keeps of those it claims: the first service to claim a name gets it."""
    taken: set[str] = set()
    kept = []
    for claim in claims:
        kept.append(tuple(name for name in claim if name not in taken))
        taken.update(claim)
    return kept


def _of_image(image: str) -> tuple[str, ...]:
    found = _REFERENCE.fullmatch(image)
    if found is None:
        return ()
    name = found["host"] + found["path"]
    return tuple(alias for alias in (name.replace("/", "__"), name.replace("/", "-")) if _HOST.fullmatch(alias))
