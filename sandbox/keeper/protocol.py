"""The messages on the keeper's socket: one JSON line each way per connection. Version 2.

A request names a verb, a profile and a lease, never a container option. The replies to `lend`, `resume` and `enter`
carry one file descriptor (SCM_RIGHTS): a socket that the keeper connected to the sandbox's port 22.
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
"""Printable text: it ends up in logs and terminals, which obey control characters."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Lend(_Message):
    """Lend a sandbox to an attempt. Asking again with the same attempt id and token gives the same lease."""

    verb: Literal["lend"] = "lend"
    attempt: _Id
    token: _Token
    """Chosen by the client, so that it can save it before there is a lease. Whoever knows it has the lease."""
    profile: _Id
    trust_key: _Text
    wait: Annotated[float, Field(ge=0, le=3600)]
    """Seconds to wait until a sandbox is ready."""
    patience: Annotated[float, Field(ge=0, le=MAX_PATIENCE)]
    """Seconds to keep the sandbox for the attempt after its lease runs out. Counts only after the first renewal: an
    attempt that never began to use its sandbox has nothing to come back for."""


class Resume(_Message):
    """Connect the attempt to its sandbox again. Starts a new term."""

    verb: Literal["resume"] = "resume"
    token: _Token


class Renew(_Message):
    """Renew the lease for one term from now, even if it had run out: the attempt is alive."""

    verb: Literal["renew"] = "renew"
    token: _Token


class Kill(_Message):
    """End every process that was not there when the sandbox became ready; the host sees and verifies it."""

    verb: Literal["kill"] = "kill"
    token: _Token


class Return(_Message):
    """End the lease. `used` is false when nothing was started, so that any trust key may have the sandbox."""

    verb: Literal["return"] = "return"
    token: _Token
    used: bool


class Condemn(_Message):
    """Recreate the sandbox: it is unfit for another job."""

    verb: Literal["condemn"] = "condemn"
    token: _Token
    reason: _Text


class List(_Message):
    """List every sandbox."""

    verb: Literal["list"] = "list"


class Ping(_Message):
    """Ask whether the keeper is there, and whether each profile has a sandbox that is ready or at work."""

    verb: Literal["ping"] = "ping"


class Offer(_Message):
    """Ask which profiles there are. Changes nothing."""

    verb: Literal["profiles"] = "profiles"


class Measure(_Message):
    """Ask for the keeper's metrics. Changes nothing."""

    verb: Literal["metrics"] = "metrics"


class Hold(_Message):
    """Keep a sandbox for a person: it is not lent, cleaned or recreated. A lent one is held once its lease ends."""

    verb: Literal["hold"] = "hold"
    sandbox: _Id
    seconds: Annotated[float, Field(gt=0, le=MAX_PATIENCE)]


class Inspect(_Message):
    """Look at a sandbox now and report what was found, without consequences. For a gone one: why it went."""

    verb: Literal["inspect"] = "inspect"
    sandbox: _Id


class Release(_Message):
    """Throw the held sandbox away: the person has seen enough."""

    verb: Literal["release"] = "release"
    sandbox: _Id


class Enter(_Message):
    """Connect a person to a held sandbox."""

    verb: Literal["enter"] = "enter"
    sandbox: _Id


Message = (
    Lend | Resume | Renew | Kill | Return | Condemn | List | Ping | Offer | Measure | Inspect | Hold | Release | Enter
)


class Entrance(_Message):
    """What is needed to log in."""

    user: str
    host_key: str
    """The public host key to pin, one line in OpenSSH's format."""
    client_key: Annotated[str, Field(repr=False)]
    """The private key that the sandbox accepts, PEM. Secret."""


class LeaseGrant(Entrance):
    """One attempt's right to one sandbox, and what it needs to log in there."""

    sandbox: str
    generation: int
    runtime: str
    token: _Token
    term: float
    """Seconds that the lease lasts without a renewal."""


class Done(_Message):
    """It was done."""


class SandboxReport(_Message):
    """One sandbox, as `list` reports it."""

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
    """Every sandbox, and which were recreated lately and why."""

    installation: str
    host: HostState
    trouble: str
    """Whether one sandbox, every new one or the host fails, and what to do; empty when nothing is wrong."""
    sandboxes: list[SandboxReport]
    condemned: list[SandboxReport]
    """The last sandboxes that were thrown away, newest first."""
    counts: dict[Fault, int]
    """How many were thrown away since the keeper's start, by fault."""


class Finding(_Message):
    """One observation of a sandbox."""

    kind: ReasonKind
    verdict: VerdictKind
    sentence: str


class Findings(_Message):
    """All that is known of one sandbox."""

    sandbox: SandboxReport
    verdict: VerdictKind | None
    """None when it is gone and could not be looked at."""
    findings: list[Finding]
    """Worst first."""


class Pong(_Message):
    """The keeper is alive. `fit` says whether every profile has at least one sandbox that is ready or at work."""

    fit: bool
    message: str


class Offered(_Message):
    """The profiles in the order of the keeper's file, each with its labels."""

    profiles: dict[str, list[str]]


class Measured(_Message):
    """The keeper's metrics, in Prometheus's text format 0.0.4 (docs/metrics.md)."""

    text: str


Reply = LeaseGrant | Entrance | Done | Listing | Findings | Pong | Offered | Measured


class Refusal(_Message):
    """A refusal, with the reason as a sentence."""

    refused: str
    again: bool = False
    """Whether the same request may be granted later."""


_M = TypeVar("_M", bound=BaseModel)


class _Envelope(_Message):
    version: Literal[2]
    request: Annotated[Message, Field(discriminator="verb")]


_ENVELOPE = TypeAdapter(_Envelope)


def encode_request(request: Message) -> bytes:
    """Encode a request as one line."""
    return _Envelope(version=2, request=request).model_dump_json().encode() + b"\n"


def decode_request(line: bytes) -> Message:
    """Parse a client's request. Raises `ProtocolError`, which names the field and never echoes a value."""
    try:
        return _ENVELOPE.validate_json(line).request
    except ValidationError as error:
        raise ProtocolError(f"The keeper did not understand the request: {_describe(error)}.") from None


def encode_reply(reply: Reply | Refusal) -> bytes:
    """Encode a reply as one line."""
    return reply.model_dump_json().encode() + b"\n"


def decode_reply(line: bytes, expected: type[_M]) -> _M | Refusal:
    """Parse the keeper's reply. Raises `ProtocolError`."""
    try:
        if line.startswith(b'{"refused"'):
            return Refusal.model_validate_json(line)
        return expected.model_validate_json(line)
    except ValidationError as error:
        raise ProtocolError(
            f"The keeper's answer was not understood: {_describe(error)}. Are both of the same release?"
        ) from None


def _describe(error: ValidationError) -> str:
    """Describe the first complaint by field and message. The offending input may be a secret and is left out."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    if first["type"] == "union_tag_invalid":  # its message quotes the input
        return "request.verb: there is no such verb"
    where = ".".join(str(part) for part in first["loc"]) or "the message"
    return f"{where}: {first['msg']}"[:300]
