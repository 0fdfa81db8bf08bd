"""The frames between the runner and the launcher in the sandbox. No input or output here.

A frame is a type (1 byte), the payload's size (4 bytes, big-endian) and the payload:

| direction   | type | payload                                        | when                              |
|-------------|------|------------------------------------------------|-----------------------------------|
| to launcher | L    | JSON: all of the launch but its scripts        | first and after e or x, or F      |
| to launcher | S    | a step's script                                | directly after L, for each step   |
| to launcher | F    | JSON: an attempt that was launched before      | first and after e or x, or L      |
| to launcher | k    | one signal number per byte                     | any time after S or F             |
| to runner   | h    | JSON: hello                                    | first and once                    |
| to runner   | r    | JSON: refused, the script was not started      | last                              |
| to runner   | l    | log bytes                                      | any time after S or F             |
| to runner   | s    | JSON: how far the steps are                    | any time after S or F             |
| to runner   | e    | JSON: how the script ended                     | after every byte of the log       |
| to runner   | x    | JSON: lost, how the script ended is not known  | in place of e                     |

The launcher cannot import this module, so it has its own few lines for frames; a test proves that both agree.
A hostile job may send anything from the sandbox: this module bounds all of it, and raises ProtocolError for anything
unexpected.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TypeAlias

from runner.errors import ProtocolError
from runner.steps import MAX_STEPS, Status, Step, StepIs, StepProgress, StepState, Test, VariableIs

MAX_JSON: Final = 16 * 1024
"""Largest JSON payload from the launcher, in bytes."""
MAX_LOG: Final = 1024 * 1024
"""Largest log payload from the launcher, in bytes."""
MAX_TEXT: Final = 500
"""Longest text taken from the launcher's JSON, in characters."""

_HEAD: Final = struct.Struct(">cI")
_MAX_COUNT: Final = 1 << 62
_STATES: Final = frozenset(StepState)


ONE_SCRIPT: Final[Mapping[str, object]] = {
    "name": "", "tests": [], "always": False, "allowed": False, "timeout": None, "environment": {},
}  # fmt: skip
"""The launcher's form of a job that is one script, without steps."""


@dataclass(frozen=True, slots=True)
class Launch:
    """The order to run a job. Paths are in the sandbox."""

    attempt: str
    args: tuple[str, ...]
    environment: dict[str, str] = field(repr=False)
    timeout: float | None
    """Seconds until the launcher itself ends the script; None for no limit."""
    grace: float
    """Seconds between TERM and KILL at that timeout."""
    log_limit: int
    """Bytes of output to keep."""
    workspace: str
    root: str
    """The folder that holds one folder per attempt."""
    filled: bool = False
    """Whether the workspace holds the job's source already; if not, the launcher empties it."""
    steps: tuple[Mapping[str, object], ...] = field(default=(ONE_SCRIPT,), repr=False)
    """The steps in `encode_step`'s form."""


@dataclass(frozen=True, slots=True)
class Follow:
    """The order to follow an attempt of an earlier session, and from where."""

    attempt: str
    root: str
    """As in `Launch`."""
    offset: int
    """The first byte of the log to send."""
    log_limit: int
    """As in `Launch`: the launcher sends nothing beyond it."""


class EndKind(StrEnum):
    """How the script ended, by the supervisor's word."""

    EXITED = "exited"
    SIGNALED = "signaled"
    TIMED_OUT = "timed_out"
    STEP_TIMED_OUT = "step_timed_out"
    START_FAILED = "start_failed"


@dataclass(frozen=True, slots=True)
class Hello:
    """The launcher is ready and waits for a job."""

    boot_id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The launcher did not start the script."""

    why: str


@dataclass(frozen=True, slots=True)
class LogData:
    """The next bytes of the log. One frame may become several of these."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the steps are."""

    steps: tuple[StepProgress, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """The script ended, and every byte of its log was sent before."""

    kind: EndKind
    code: int
    """Exit code (0 to 255) or signal (1 to 64); 0 when the script did not start."""
    errno: int
    """Why the script did not start: the number and the text of the system's error."""
    text: str
    logged: int
    dropped: int
    """Bytes of the log, and bytes that were dropped because the log was full or could not be written."""
    log_error: str
    """Why the log could not be written; empty if it could."""
    removed: int = 0
    """Bytes of the log that the job removed from its file while the script ran. Those not sent before are lost."""
    left: int = 0
    """Processes of the script that could not be ended, if somebody had asked for the end."""
    step: int = 0
    """The number, from 0 on, of the step that decided the end: the first that failed."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The launcher does not know how the script ended."""

    why: str


Frame: TypeAlias = Hello | Refused | LogData | Progress | Ended | Lost


def encode_launch(launch: Launch, script_size: int) -> bytes:
    """Return the launch frame and the head of the first script's frame; the script's bytes follow."""
    return _encode(b"L", launch) + encode_script(script_size)


def encode_script(size: int) -> bytes:
    """Return the head of a further script's frame; the script's bytes follow."""
    return _HEAD.pack(b"S", size)


def encode_step(step: Step) -> dict[str, object]:
    """Return a step in the launcher's form, without its script."""
    allowed = step.allow_failure
    return {
        "name": step.name,
        "tests": [_encode_test(test) for test in step.condition.tests],
        "always": step.always,
        "allowed": allowed if isinstance(allowed, bool) else sorted(allowed),
        "timeout": step.timeout,
        "environment": dict(step.environment),
    }


def _encode_test(test: Test) -> list[object]:
    match test:
        case Status():
            return [test]
        case VariableIs(name, text, equal):
            return ["variable", name, text, equal]
        case StepIs(name, outcome, equal):
            return ["step", name, outcome, equal]


def encode_follow(follow: Follow) -> bytes:
    """Return the frame that asks to follow an attempt of an earlier session."""
    return _encode(b"F", follow)


def _encode(kind: bytes, request: Launch | Follow) -> bytes:
    document = json.dumps({name: getattr(request, name) for name in request.__slots__}).encode()
    return _HEAD.pack(kind, len(document)) + document


def encode_signal(number: int) -> bytes:
    """Return the frame that asks for a signal to the script's process group."""
    return _HEAD.pack(b"k", 1) + bytes([number])


class Decoder:
    """Turns the bytes of a launcher, cut anywhere, into frames. Holds at most one JSON payload."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._kind = b""
        self._missing = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that `data` completes, and log bytes as they come.

        Raises ProtocolError at the first violation; the decoder cannot be used after that.
        """
        view = memoryview(data)
        while view:
            if self._kind == b"l":
                piece, view = view[: self._missing], view[self._missing :]
                self._missing -= len(piece)
                yield LogData(piece)
            else:
                view = self._hold(view)
                if self._kind and not self._missing:
                    yield _parse(self._kind, bytes(self._held))
            if not self._missing and self._kind:
                self._kind = b""
                self._held.clear()

    def _hold(self, view: memoryview) -> memoryview:
        """Take the bytes that a head or a JSON payload still lacks, and return the rest."""
        wanted = self._missing if self._kind else _HEAD.size - len(self._held)
        piece, rest = view[:wanted], view[wanted:]
        self._held += piece
        if self._kind:
            self._missing -= len(piece)
        elif len(self._held) == _HEAD.size:
            self._kind, self._missing = _check_head(bytes(self._held))
            self._held.clear()
        return rest


def _check_head(head: bytes) -> tuple[bytes, int]:
    kind, size = _HEAD.unpack(head)
    if kind not in b"hrlsex":
        raise ProtocolError(f"The sandbox sent a frame of an unknown type ({kind!r}).")
    if not 0 < size <= (MAX_LOG if kind == b"l" else MAX_JSON):
        raise ProtocolError(f"The sandbox announced a frame of {size} bytes, which is not allowed.")
    return kind, size


def _parse(kind: bytes, payload: bytes) -> Frame:
    try:
        document = json.loads(payload)
        if not isinstance(document, dict):
            raise ProtocolError("The sandbox sent a frame that is not a JSON object.")
        return _PARSERS[kind](document)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"The sandbox sent a frame that cannot be read ({clean(str(error))}).") from None


def clean(text: str) -> str:
    """Return text from the sandbox as one bounded line that is safe for terminals and logs."""
    words = text[: MAX_TEXT * 2].split()
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(words))[:MAX_TEXT]


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name, "")
    if not isinstance(value, str):
        raise ProtocolError(f"The sandbox sent something that is not text as {name}.")
    return clean(value)


def _count(document: dict[str, Any], name: str, highest: int = _MAX_COUNT) -> int:
    value = document.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= highest:
        raise ProtocolError(f"The sandbox sent something that is not a number from 0 to {highest} as {name}.")
    return value


def _parse_ended(document: dict[str, Any]) -> Ended:
    try:
        kind = EndKind(_text(document, "kind"))
    except ValueError:
        raise ProtocolError("The sandbox sent an end of the script that is of no known kind.") from None
    code = _count(document, "code", 64 if kind is EndKind.SIGNALED else 255)
    if kind is EndKind.SIGNALED and code == 0:
        raise ProtocolError("The sandbox says that signal 0 ended the script.")
    return Ended(
        kind=kind,
        code=code,
        errno=_count(document, "errno", 4095),
        text=_text(document, "text"),
        logged=_count(document, "logged"),
        dropped=_count(document, "dropped"),
        log_error=_text(document, "log_error"),
        removed=_count(document, "removed"),
        left=_count(document, "left"),
        step=_count(document, "step", MAX_STEPS - 1),
    )


def _parse_progress(document: dict[str, Any]) -> Progress:
    rows = document.get("steps")
    if not isinstance(rows, list) or not len(rows) <= MAX_STEPS:
        raise ProtocolError("The sandbox sent something that is no list of steps.")
    return Progress(tuple(map(_parse_step, rows)))


def _parse_step(row: object) -> StepProgress:
    match row:
        case [str() as state, int() as code, int() | float() as seconds, bool() as allowed] if (
            state in _STATES and 0 <= code < 256 and 0 <= seconds < _MAX_COUNT
        ):
            return StepProgress("", StepState(state), int(code), float(seconds), allowed)
    raise ProtocolError("The sandbox sent something that is not how far a step is.")


_PARSERS: Final[dict[bytes, Callable[[dict[str, Any]], Frame]]] = {
    b"h": lambda document: Hello(_text(document, "boot_id")),
    b"r": lambda document: Refused(_text(document, "why")),
    b"s": _parse_progress,
    b"e": _parse_ended,
    b"x": lambda document: Lost(_text(document, "why")),
}
