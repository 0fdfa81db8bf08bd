"""What is said over the keeper's socket: one JSON line each way per connection. Version 2.

A request names a verb, a profile and a lease, never a container option. The replies to `lend`, `resume` and
`enter` carry one file descriptor (SCM_RIGHTS): a socket that the keeper connected to the sandbox's port 22.
"""

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sandbox.errors import Fault, ProtocolError
from sandbox.health import HostState
from sandbox.inspection.judge import ReasonKind, VerdictKind
from sandbox.state import State

MAX_PATIENCE = 7 * 24 * 3600.0


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
_Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{22,64}$", repr=False)]
_Text = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_printable)]
"""Ends up in logs and terminals, where control characters would do what they say."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Lend(_Message):
    """Lend a sandbox to an attempt. Asking again with the same attempt id and token gives the same lease."""

    verb: Literal["lend"] = "lend"
    attempt: _Id
    token: _Token
    """The client's own choice, so that it can be on its disk before there is a lease. Who knows it has the lease."""
    profile: _Id
    trust_key: _Text
    wait: Annotated[float, Field(ge=0, le=3600)]
    """Seconds to wait until a sandbox is ready."""
    patience: Annotated[float, Field(ge=0, le=MAX_PATIENCE)]
    """Seconds that the sandbox is kept for the attempt when its lease runs out. Counts from the first renewal on: an
    attempt that never came to use its sandbox has nothing to come back for."""


class Resume(_Message):
    """The attempt wants its sandbox again, with a new connection. Starts a new term."""

    verb: Literal["resume"] = "resume"
    token: _Token


class Renew(_Message):
    """The attempt is alive: the lease lasts one more term from now, also when it had run out."""

    verb: Literal["renew"] = "renew"
    token: _Token


class Kill(_Message):
    """End every process that was not there when the sandbox became ready, seen and verified from the host."""

    verb: Literal["kill"] = "kill"
    token: _Token


class Return(_Message):
    """The attempt is over. `used` is false when nothing was started, so that any trust key may have the sandbox."""

    verb: Literal["return"] = "return"
    token: _Token
    used: bool


class Condemn(_Message):
    """The sandbox is not fit for another job: recreate it."""

    verb: Literal["condemn"] = "condemn"
    token: _Token
    reason: _Text


class List(_Message):
    """Tell about every sandbox."""

    verb: Literal["list"] = "list"


class Ping(_Message):
    """Is the keeper there, and does each profile have a sandbox that is ready or at work?"""

    verb: Literal["ping"] = "ping"


class Offer(_Message):
    """Which profiles are there? Changes nothing."""

    verb: Literal["profiles"] = "profiles"


class Measure(_Message):
    """Tell what the keeper counts and times. Changes nothing."""

    verb: Literal["metrics"] = "metrics"


class Hold(_Message):
    """Keep a sandbox for a person: it is not lent, not cleaned and not recreated. One that is lent, from then on."""

    verb: Literal["hold"] = "hold"
    sandbox: _Id
    seconds: Annotated[float, Field(gt=0, le=MAX_PATIENCE)]


class Inspect(_Message):
    """Look at a sandbox now, and tell what was found; nothing comes of it. One that is gone: why it went."""

    verb: Literal["inspect"] = "inspect"
    sandbox: _Id


class Release(_Message):
    """The person has seen enough: throw the held sandbox away."""

    verb: Literal["release"] = "release"
    sandbox: _Id


class Enter(_Message):
    """A person wants into a held sandbox."""

    verb: Literal["enter"] = "enter"
    sandbox: _Id


Message = (
    Lend | Resume | Renew | Kill | Return | Condemn | List | Ping | Offer | Measure | Inspect | Hold | Release | Enter
)


class Entrance(_Message):
    """What it takes to log in."""

    user: str
    host_key: str
    """The public host key to pin, one line in OpenSSH's format."""
    client_key: Annotated[str, Field(repr=False)]
    """The private key that is let in, PEM. Secret."""


class LeaseGrant(Entrance):
    """The right of one attempt to one sandbox, and what it needs to log in there."""

    sandbox: str
    generation: int
    runtime: str
    token: _Token
    term: float
    """Seconds that the lease lasts unless it is renewed."""


class Done(_Message):
    """It was done."""


class SandboxReport(_Message):
    """One sandbox, as `list` tells about it."""

    name: str
    generation: int
    profile: str
    state: State
    seconds_in_state: float
    runtime: str
    trust_key: str | None
    attempt: str | None
    jobs: int
    fault: Fault | None
    reason: str | None
    processes_at_ready: list[int]
    """Host process ids."""


class Listing(_Message):
    """Every sandbox, and what was recreated lately and why."""

    installation: str
    host: HostState
    trouble: str
    """Whether it is one sandbox, every new one or the host that fails, and what to do; empty when nothing is wrong."""
    sandboxes: list[SandboxReport]
    condemned: list[SandboxReport]
    """The last ones that were thrown away, newest first."""
    counts: dict[Fault, int]
    """How many were thrown away since the keeper's start, by why."""


class Finding(_Message):
    """One thing that was seen of a sandbox."""

    kind: ReasonKind
    verdict: VerdictKind
    sentence: str


class Findings(_Message):
    """What there is to know of one sandbox."""

    sandbox: SandboxReport
    verdict: VerdictKind | None
    """None when it could not be looked at because it is gone."""
    findings: list[Finding]
    """The worst first."""


class Pong(_Message):
    """Alive. `fit` says whether every profile has at least one sandbox that is ready or at work."""

    fit: bool
    message: str


class Offered(_Message):
    """The profiles in the order of the keeper's file, each with its labels."""

    profiles: dict[str, list[str]]


class Measured(_Message):
    """What the keeper counts and times, in Prometheus's text format 0.0.4 (docs/metrics.md)."""

    text: str


Reply = LeaseGrant | Entrance | Done | Listing | Findings | Pong | Offered | Measured


class Refusal(_Message):
    """The answer no, with the reason as a sentence."""

    refused: str
    again: bool = False
    """Whether the same request may be granted later."""


_M = TypeVar("_M", bound=BaseModel)


class _Envelope(_Message):
    version: Literal[2]
    request: Annotated[Message, Field(discriminator="verb")]


_ENVELOPE = TypeAdapter(_Envelope)


def encode_request(request: Message) -> bytes:
    """One line."""
    return _Envelope(version=2, request=request).model_dump_json().encode() + b"\n"


def decode_request(line: bytes) -> Message:
    """Parse what a client sent. Raises `ProtocolError` naming the field, never echoing a value."""
    try:
        return _ENVELOPE.validate_json(line).request
    except ValidationError as error:
        raise ProtocolError(f"The keeper did not understand the request: {_describe(error)}.") from None


def encode_reply(reply: Reply | Refusal) -> bytes:
    """One line."""
    return reply.model_dump_json().encode() + b"\n"


def decode_reply(line: bytes, expected: type[_M]) -> _M | Refusal:
    """Parse what the keeper answered. Raises `ProtocolError`."""
    try:
        if line.startswith(b'{"refused"'):
            return Refusal.model_validate_json(line)
        return expected.model_validate_json(line)
    except ValidationError as error:
        raise ProtocolError(
            f"The keeper's answer was not understood: {_describe(error)}. Are both of the same release?"
        ) from None


def _describe(error: ValidationError) -> str:
    """The first complaint as field and message; the offending input may be a secret and stays out."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    if first["type"] == "union_tag_invalid":  # its message quotes what was sent
        return "request.verb: there is no such verb"
    where = ".".join(str(part) for part in first["loc"]) or "the message"
    return f"{where}: {first['msg']}"[:300]
