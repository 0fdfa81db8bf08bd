"""The record of one sandbox that someone else started, across restarts of the runner. Pure.

The runner cannot recreate the sandbox, so its history counts for as long as it has the same host key.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Final, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from runner.execution.marker import Moment
from runner.job import UNTRUSTED

TERM: Final = 30.0
"""Seconds after a renewal for which a lease holds without another renewal."""
_MAX_ENDED: Final = 32
"""Number of attempts that are remembered after their lease has ended."""
_STRICT: Final = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)
_Text = Annotated[str, Field(max_length=4096)]
_Count = Annotated[int, Field(ge=0)]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Look:
    """What ran in a sandbox before a job was sent there. Anything else there at the job's end is the job's."""

    boot_id: _Text
    """The boot of the sandbox's host."""
    processes: Annotated[tuple[tuple[int, int], ...], Field(max_length=100_000)]
    """Each process's id and its start in clock ticks since the boot."""
    docker: Annotated[tuple[_Text, ...], Field(max_length=100_000)] | None
    """API paths of the inner Docker Engine's containers, networks and volumes; None where there is no engine."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT


@dataclass(frozen=True, slots=True)
class Lent:
    """The current lease of a sandbox."""

    attempt: _Text
    token: _Text = field(repr=False)
    renewed: Moment
    patience: Annotated[float, Field(ge=0)]
    """The start of the last term, and the seconds after that term in which the lease can be resumed."""
    first: bool
    """Whether the sandbox was unused before."""
    before: Look

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    @property
    def is_over(self) -> bool:
        """Return whether the lease can no longer be resumed."""
        return self.renewed.elapsed() > TERM + self.patience


@dataclass(frozen=True, slots=True)
class Record:
    """One sandbox, known by its host key. Every move returns the next record."""

    generation: _Count = 0
    """How often the sandbox was lent."""
    trust_key: _Text | None = None
    """The trust key whose leftovers may be in the sandbox; None while it is unused."""
    condemned: _Text = ""
    """Why the sandbox is never lent again; empty while it may be lent."""
    lent: Lent | None = None
    ended: tuple[_Text, ...] = ()
    """The attempts whose lease ended lately."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    @property
    def state(self) -> str:
        """Return the sandbox's state, in the keeper's words."""
        if self.condemned:
            return "condemned"
        if self.lent is None:
            return "ready"
        return "leased" if self.lent.renewed.elapsed() <= TERM else "orphaned"

    def lent_to(self, attempt: str, token: str) -> Lent | None:
        """Return the lease, if it is this one."""
        return self.lent if self.lent and (self.lent.attempt, self.lent.token) == (attempt, token) else None

    def refusal(self, trust_key: str) -> str | None:
        """Return why it cannot be lent to this trust key, now or later, as the rest of a sentence; None when it can."""
        if self.condemned:
            return f"was condemned: {self.condemned}"
        if self.trust_key is None:
            return None
        if self.trust_key != trust_key:
            return f"served the trust key {self.trust_key} and is never lent to another"
        if trust_key == UNTRUSTED:
            return f"served a job of the trust key {UNTRUSTED}, which always gets a fresh sandbox"
        return None

    def lend(self, attempt: str, token: str, trust_key: str, patience: float, before: Look) -> Record:
        """Lend the sandbox. It counts as used from now on: a crash could lose the word that it was not."""
        lent = Lent(attempt, token, Moment.now(), patience, self.trust_key is None, before)
        return replace(self, generation=self.generation + 1, trust_key=trust_key, lent=lent)

    def renew(self) -> Record:
        """Begin a new term. Needs a lease."""
        assert self.lent
        return replace(self, lent=replace(self.lent, renewed=Moment.now()))

    def end(self, *, used: bool) -> Record:
        """End the lease; the sandbox may be lent again. Needs a lease."""
        assert self.lent
        trust_key = None if self.lent.first and not used else self.trust_key
        ended = (*self.ended, self.lent.attempt)[-_MAX_ENDED:]
        return replace(self, trust_key=trust_key, lent=None, ended=ended)

    def condemn(self, reason: str) -> Record:
        """End the lease, if there is one, and never lend the sandbox again. The first reason stays."""
        ended = self.end(used=True) if self.lent else self
        return replace(ended, condemned=self.condemned or reason[:2000] or "no reason was given")

    def to_bytes(self) -> bytes:
        """Return the record as JSON. The JSON holds a secret: the token of the lease."""
        return _RECORD.dump_json(self)

    @classmethod
    def from_bytes(cls, document: bytes) -> Record:
        """Read the record that `to_bytes` wrote. Raises ValueError on anything odd; its text holds no secret."""
        return _validated(_RECORD, document)


def look_from_json(document: object) -> Look:
    """Read a sandbox's answer to a look. Raises ValueError on anything odd."""
    return _validated(_LOOK, json.dumps(document).encode())  # in Python, "strict" takes no list for a tuple


def _validated(kind: TypeAdapter[_T], document: bytes) -> _T:
    try:
        return kind.validate_json(document)
    except ValidationError as error:
        wrong = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])[:100]
        raise ValueError(f"cannot be read: {wrong or 'it is no object'}") from None


_RECORD: Final = TypeAdapter(Record)
_LOOK: Final = TypeAdapter(Look)
