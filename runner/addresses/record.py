"""What is known of one sandbox that someone else started, over the lives of the runner. Pure.

Nobody recreates it, so what happened to it counts for as long as it has the same host key.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Final, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from runner.execution.marker import Moment
from runner.job import UNTRUSTED

TERM: Final = 30.0
"""Seconds after a renewal in which a lease is safe without another."""
_MAX_ENDED: Final = 32
"""Attempts that are remembered after their lease has ended."""
_STRICT: Final = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)
_Text = Annotated[str, Field(max_length=4096)]
_Count = Annotated[int, Field(ge=0)]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Look:
    """What ran in a sandbox before a job was sent there. What is there beyond it at the job's end is the job's."""

    boot_id: _Text
    """The boot of the sandbox's host."""
    processes: Annotated[tuple[tuple[int, int], ...], Field(max_length=100_000)]
    """Each process's id and its start in clock ticks since the boot."""
    docker: Annotated[tuple[_Text, ...], Field(max_length=100_000)] | None
    """Ids of the inner Docker Engine's containers and networks, names of its volumes; None where there is none."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT


@dataclass(frozen=True, slots=True)
class Lent:
    """The lease that a sandbox is under."""

    attempt: _Text
    token: _Text = field(repr=False)
    renewed: Moment
    patience: Annotated[float, Field(ge=0)]
    """When its last term began, and the seconds beyond that term in which it can be resumed."""
    first: bool
    """Whether nobody had used the sandbox before."""
    before: Look

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    @property
    def is_over(self) -> bool:
        """Whether nobody is to be waited for any more."""
        return self.renewed.elapsed() > TERM + self.patience


@dataclass(frozen=True, slots=True)
class Record:
    """One sandbox, known by its host key. Every move returns the next record."""

    generation: _Count = 0
    """How often it was lent."""
    trust_key: _Text | None = None
    """Whose leftovers may be in it; None while nobody used it."""
    condemned: _Text = ""
    """Why it is never lent again; empty while it may be."""
    lent: Lent | None = None
    ended: tuple[_Text, ...] = ()
    """Attempts whose lease ended lately."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    @property
    def state(self) -> str:
        """Where it is in its life, in the keeper's words."""
        if self.condemned:
            return "condemned"
        if self.lent is None:
            return "ready"
        return "leased" if self.lent.renewed.elapsed() <= TERM else "orphaned"

    def lent_to(self, attempt: str, token: str) -> Lent | None:
        """Return the lease, if it is this one."""
        return self.lent if self.lent and (self.lent.attempt, self.lent.token) == (attempt, token) else None

    def refusal(self, trust_key: str) -> str | None:
        """Why it cannot be lent under this trust key, now or later, as the rest of a sentence; None when it can."""
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
        """It is lent, and counts as used from now on: nobody may live to say that it was not."""
        lent = Lent(attempt, token, Moment.now(), patience, self.trust_key is None, before)
        return replace(self, generation=self.generation + 1, trust_key=trust_key, lent=lent)

    def renew(self) -> Record:
        """A new term begins. Needs a lease."""
        assert self.lent
        return replace(self, lent=replace(self.lent, renewed=Moment.now()))

    def end(self, *, used: bool) -> Record:
        """The lease ends, and the sandbox may be lent again. Needs a lease."""
        assert self.lent
        trust_key = None if self.lent.first and not used else self.trust_key
        ended = (*self.ended, self.lent.attempt)[-_MAX_ENDED:]
        return replace(self, trust_key=trust_key, lent=None, ended=ended)

    def condemn(self, reason: str) -> Record:
        """The lease, if there is one, ends, and the sandbox is never lent again. The first reason stays."""
        ended = self.end(used=True) if self.lent else self
        return replace(ended, condemned=self.condemned or reason[:2000] or "no reason was given")

    def to_bytes(self) -> bytes:
        """Return the record as JSON. It holds a secret: the token of the lease."""
        return _RECORD.dump_json(self)

    @classmethod
    def from_bytes(cls, document: bytes) -> Record:
        """Return the record that `to_bytes` wrote. Raises ValueError on anything odd; its text holds no secret."""
        return _validated(_RECORD, document)


def look_from_json(document: object) -> Look:
    """Return what a sandbox said of itself. Raises ValueError on anything odd."""
    return _validated(_LOOK, json.dumps(document).encode())  # in Python, "strict" takes no list for a tuple


def _validated(kind: TypeAdapter[_T], document: bytes) -> _T:
    try:
        return kind.validate_json(document)
    except ValidationError as error:
        wrong = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])[:100]
        raise ValueError(f"cannot be read: {wrong or 'it is no object'}") from None


_RECORD: Final = TypeAdapter(Record)
_LOOK: Final = TypeAdapter(Look)
