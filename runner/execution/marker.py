"""The data that a later life of the runner needs to find an attempt again.

A marker is on disk before the first byte of the job is sent: in doubt the job counts as started from then on. It holds
nothing of the job's script and environment. Its token opens the sandbox: keep the marker readable for its owner only.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

_STRICT: Final = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)
_Text = Annotated[str, Field(max_length=4096)]
_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}$")]
_Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22,64}$")]
_Count = Annotated[int, Field(ge=0)]
_Path = Annotated[str, Field(pattern=r"^/", max_length=4096)]


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time that setting a clock does not move: seconds on the monotonic clock of one boot of one host."""

    boot_id: _Text
    seconds: Annotated[float, Field(ge=0)]

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    @classmethod
    def now(cls) -> Self:
        """Return the current moment here."""
        return cls(_boot_id(), time.monotonic())

    @property
    def is_of_another_boot(self) -> bool:
        """Whether the moment is of another boot or host, so that nobody can tell how long ago it was."""
        return self.boot_id != _boot_id()

    def elapsed(self) -> float:
        """Return the seconds since then; 0 on another boot or host, where nobody can tell."""
        return max(0.0, time.monotonic() - self.seconds) if not self.is_of_another_boot else 0.0


@dataclass(frozen=True, slots=True)
class Marker:
    """One attempt whose job was sent to a sandbox, or was about to be."""

    attempt: _Id
    token: _Token = field(repr=False)
    """The token of the attempt's lease. A secret."""
    profile: _Text
    trust_key: _Text
    sandbox: _Text
    generation: _Count
    boot_id: _Text
    """The boot of the sandbox's host. No process survives a reboot."""
    timeout: Annotated[float, Field(gt=0)] | None
    started: Moment
    """Seconds that the script may take, and when it was sent; in the copy on disk, when that copy was written."""
    log_limit: _Count
    """Bytes of output to keep."""
    workspace: _Path
    attempts: _Path
    """Folders in the sandbox."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    def to_json(self) -> dict[str, Any]:
        """Return the marker as a JSON object."""
        document: dict[str, Any] = _MARKER.dump_python(self, mode="json")
        return document

    @classmethod
    def from_json(cls, document: object) -> Marker:
        """Return the marker that `to_json` wrote. Raises ValueError for anything else; its text holds no secret."""
        try:
            return _MARKER.validate_json(json.dumps(document))  # in Python mode, "strict" accepts no dict for a class
        except ValidationError as error:
            wrong = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])[:100]
            raise ValueError(f"The marker cannot be read: {wrong or 'it is no object'}.") from None


_MARKER: Final = TypeAdapter(Marker)


@cache
def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
