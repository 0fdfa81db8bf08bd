"""The frames between a hook and the service. No input or output here.

A connection starts with one byte `.`, sent together with a descriptor of gitlab-runner's process (a pidfd) where there
is one. Then come frames: a type (1 byte), the payload's size (4 bytes, big-endian) and the payload:

| direction  | type | payload                                                        | when                        |
|------------|------|----------------------------------------------------------------|-----------------------------|
| to service | Q    | hook, handle, stage, call, offset, with a NUL between each two | first                       |
| to service | B    | a stage's script, the job response, variables, or ""           | directly after Q            |
| to service | T    | `.`: gitlab-runner wants the end (TERM)                        | any time after B            |
| to hook    | o    | bytes for stdout                                               | any time                    |
| to hook    | a    | bytes for stdout that are no output of the stage               | any time                    |
| to hook    | e    | whole lines of the runner's own                                | any time                    |
| to hook    | x    | `ok`, `failed CODE` or `system`                                | last                        |

The hook chooses the call at random. If it repeats the call after a lost connection, the same stage is meant and not
started again, and `o` continues at the offset, which counts only `o`. The variables are the job's as gitlab-runner has
them, each as `NAME=VALUE`, with a NUL between each two. The hook has its own few lines for all this, as it imports
nothing of ours.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from runner.errors import GitLabError
from runner.gitlab.response import MAX_RESPONSE
from runner.job import MAX_SCRIPT

HEAD: Final = struct.Struct(">cI")
LIMITS: Final = {b"Q": 64 * 1024, b"B": max(MAX_RESPONSE, MAX_SCRIPT), b"T": 16}
"""Largest payload of each type, in bytes."""

VERSIONS: Final = "Is it of another version than the runner? Install both anew from the same one."

_CALL: Final = re.compile(r"[0-9a-f]{32}")
_STAGE: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_MAX_OFFSET: Final = 1 << 62


class Verb(StrEnum):
    """The hooks."""

    CONFIG = "config"
    PREPARE = "prepare"
    RUN = "run"
    CLEANUP = "cleanup"


@dataclass(frozen=True, slots=True)
class Request:
    """A hook's request."""

    verb: Verb
    handle: str = field(repr=False)
    """Identifies the job, and proves the right to use it; empty before `config` has answered."""
    stage: str
    """The name of the stage, for `run`."""
    call: str
    offset: int
    """Bytes of output that the hook already has."""
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Done:
    """The hook did its work."""


@dataclass(frozen=True, slots=True)
class BuildFailed:
    """The job's own failure: its script's exit code, or 1. Not retried."""

    code: int


@dataclass(frozen=True, slots=True)
class SystemFailed:
    """Any other failure, with a sentence that describes it."""

    why: str


End: TypeAlias = Done | BuildFailed | SystemFailed


def encode(kind: bytes, payload: bytes) -> bytes:
    """Return a frame."""
    return HEAD.pack(kind, len(payload)) + payload


def encode_end(end: End) -> bytes:
    """Return the last frames of an answer."""
    match end:
        case Done():
            return encode(b"x", b"ok")
        case BuildFailed(code):
            return encode(b"x", f"failed {code}".encode())
        case SystemFailed(why):
            return encode(b"e", f"runner: {why}\n".encode(errors="replace")) + encode(b"x", b"system")


def check_head(head: bytes) -> tuple[bytes, int]:
    """Return the type and the size that a frame's head announces. Raises GitLabError."""
    kind, size = HEAD.unpack(head)
    if kind not in LIMITS:
        raise GitLabError(f"The hook sent a frame ({kind!r}) that there is not. {VERSIONS}")
    if size > LIMITS[kind]:
        raise GitLabError(f"The hook sent {size} bytes in one piece, and at most {LIMITS[kind]} are taken.")
    return kind, size


def parse_request(words: bytes, body: bytes) -> Request:
    """Parse a hook's request. Raises GitLabError."""
    parts = words.decode(errors="replace").split("\0")
    if len(parts) != 5 or parts[0] not in set(Verb) or not _CALL.fullmatch(parts[3]) or not parts[4].isdecimal():
        raise GitLabError(f"The hook sent a request that cannot be read. {VERSIONS}")
    verb, handle, stage, call, offset = parts
    if verb == Verb.RUN and not _STAGE.fullmatch(stage):
        raise GitLabError("The hook was given a stage whose name is not one word.")
    if len(offset) > 18 or int(offset) > _MAX_OFFSET:
        raise GitLabError("The hook asks for output that there cannot be.")
    return Request(Verb(verb), handle, stage, call, int(offset), body)


def parse_variables(body: bytes) -> dict[str, str]:
    """Return the variables in the body of `prepare`. The job's author may have written them."""
    pairs = [line.partition("=") for line in body.decode(errors="replace").split("\0")]
    return {name: value for name, separator, value in pairs if name and separator}
