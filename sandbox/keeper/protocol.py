"""What is said over the keeper's socket: one JSON line each way per connection. Version 1.

A request names a verb, a profile and a lease, never a container option. The reply to `lend` carries one file
descriptor (SCM_RIGHTS): a socket that the keeper connected to the sandbox's port 22.
"""

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sandbox.errors import Fault, ProtocolError
from sandbox.state import State

MAX_LINE = 1024 * 1024
DEFAULT_RUN_FOLDER = "/run/sandbox"
SOCKET_IN_RUN_FOLDER = "keeper/socket"
DEFAULT_SOCKET = f"{DEFAULT_RUN_FOLDER}/{SOCKET_IN_RUN_FOLDER}"


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line of printable characters")
    return text


_Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
_Token = Annotated[str, Field(min_length=16, max_length=64, repr=False)]
_Text = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_printable)]
"""Ends up in logs and terminals, where control characters would do what they say."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Lend(_Message):
    """Lend a sandbox to an attempt. Asking again with the same attempt id gives the same lease."""

    verb: Literal["lend"] = "lend"
    attempt: _Id
    profile: _Id
    trust_key: _Text
    wait: Annotated[float, Field(ge=0, le=3600)]
    """Seconds to wait until a sandbox is ready."""


class Renew(_Message):
    """The attempt is alive: the lease lasts one more term from now."""

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


Message = Lend | Renew | Kill | Return | Condemn | List | Ping


class LeaseGrant(_Message):
    """The right of one attempt to one sandbox, and what it needs to log in there."""

    sandbox: str
    generation: int
    runtime: str
    user: str
    host_key: str
    """The public host key to pin, one line in OpenSSH's format."""
    client_key: Annotated[str, Field(repr=False)]
    """The private key that is let in, PEM. Secret."""
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
    sandboxes: list[SandboxReport]
    condemned: list[SandboxReport]
    """The last ones that were thrown away, newest first."""


class Pong(_Message):
    """Alive. `fit` says whether every profile has at least one sandbox that is ready or at work."""

    fit: bool
    message: str


Reply = LeaseGrant | Done | Listing | Pong


class Refusal(_Message):
    """The answer no, with the reason as a sentence."""

    refused: str


_M = TypeVar("_M", bound=BaseModel)


class _Envelope(_Message):
    version: Literal[1]
    request: Annotated[Message, Field(discriminator="verb")]


_ENVELOPE = TypeAdapter(_Envelope)


def encode_request(request: Message) -> bytes:
    """One line."""
    return _Envelope(version=1, request=request).model_dump_json().encode() + b"\n"


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
