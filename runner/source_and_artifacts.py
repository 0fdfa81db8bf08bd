"""The files of a job: the source that it starts with, and the artifacts to keep of it."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, ClassVar, Final, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError

MAX_URL: Final = 2000
MAX_RULES: Final = 20
MAX_PATTERNS: Final = 100
"""The most rules for artifacts, and the most patterns in one rule."""
MAX_PATTERN: Final = 1000

_VARIABLE: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"
_SCP: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*@[A-Za-z0-9][A-Za-z0-9.-]*:[^\s:/-][^\s:]*")
"""`user@host:path`, which git accepts besides URLs."""
_REF: Final = r"^[A-Za-z0-9_][A-Za-z0-9_./+-]{0,254}$"


def _refused(why: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "{why}", {"why": why})


def _check_address(url: str, *schemes: str) -> str:
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise _refused("This is no address") from None
    if len(url) > MAX_URL or not url.isprintable() or not url.isascii() or " " in url:
        raise _refused(f"An address has at most {MAX_URL} printable ASCII characters, and no spaces")
    if parts.scheme not in schemes or not host or host.startswith("-"):
        raise _refused(f"Give an address that begins with {', '.join(f'{scheme}://' for scheme in schemes)}")
    if parts.password is not None or (parts.username is not None and parts.scheme != "ssh"):
        raise _refused("An address is no secret. Leave the login out, and name a secret of the job as `token`")
    return url


def _check_git(url: str) -> str:
    return url if _SCP.fullmatch(url) and len(url) <= MAX_URL else _check_address(url, "https", "http", "ssh")


def _check_archive(url: str) -> str:
    return _check_address(url, "https", "http")


def _check_pattern(pattern: str) -> str:
    parts = pattern.split("/")
    if not pattern or len(pattern) > MAX_PATTERN or not pattern.isprintable():
        raise _refused(f"A pattern has 1 to {MAX_PATTERN} printable characters")
    if pattern.startswith(("/", "~")) or ".." in parts:
        raise _refused("Artifacts lie beneath the working folder. Give a path relative to it, without `..`")
    if not any(part not in ("", ".") for part in parts):
        raise _refused("Name what is to be kept; `**` is everything")
    return pattern


class _Given(BaseModel):
    """A part of a job as a user wrote it: strict, except where JSON and YAML have no type."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Upload(_Given):
    """An archive that was sent to the service before."""

    kind: Literal["upload"] = "upload"
    id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Git(_Given):
    """One commit of a git repository, checked out."""

    kind: Literal["git"] = "git"
    url: Annotated[str, AfterValidator(_check_git)]
    commit: Annotated[str, Field(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$")]
    """The whole hash."""
    ref: Annotated[str, Field(pattern=_REF)] | None = None
    """A branch or tag that contains the commit, for servers that do not serve a commit by its hash."""
    depth: Annotated[int, Field(ge=0, le=1_000_000)] = 1
    """How many commits of history to fetch; 0 means all of them."""
    token: Annotated[str, Field(pattern=_VARIABLE)] | None = None
    """The secret of the job that is the password for an address with https."""
    user: Annotated[str, Field(pattern=r"^[A-Za-z0-9._@+-]{1,100}$")] = "oauth2"
    """The user whose password the token is. Hosts that know tokens take any user."""
    key: Annotated[str, Field(pattern=_VARIABLE)] | None = None
    """The secret of the job that is the private key for an address with ssh."""
    host_keys: Annotated[list[str], Field(max_length=20)] = []
    """The host's public keys, as lines of a known_hosts file (`ssh-keyscan HOST`, compared with what the host says)."""

    @property
    def over_ssh(self) -> bool:
        """Whether the repository is reached over SSH."""
        return not self.url.startswith(("https://", "http://"))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.over_ssh and (not self.key or not self.host_keys or self.token):
            raise _refused("An address with ssh needs `key` and `host_keys`, and no `token`")
        if not self.over_ssh and (self.key or self.host_keys):
            raise _refused("`key` and `host_keys` are for addresses with ssh. Give a `token`, or nothing")
        if any(not line.isprintable() or len(line) > MAX_URL for line in self.host_keys):
            raise _refused("`host_keys` are lines of a known_hosts file")
        return self


class Archive(_Given):
    """A tar archive that is fetched and unpacked."""

    kind: Literal["archive"] = "archive"
    url: Annotated[str, AfterValidator(_check_archive)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    token: Annotated[str, Field(pattern=_VARIABLE)] | None = None
    """The secret of the job that is sent as `Authorization: Bearer`."""


Source: TypeAlias = Annotated[Upload | Git | Archive, Field(discriminator="kind")]
"""The source of the files in a job's working folder."""


class When(StrEnum):
    """After which ends of a script the files are kept."""

    ON_SUCCESS = "on_success"
    ON_FAILURE = "on_failure"
    """Also after a signal or the timeout."""
    ALWAYS = "always"


def _named(value: object) -> object:
    """Convert a name to its value: strict validation accepts only the value itself."""
    if not isinstance(value, str) or value not in list(When):
        raise _refused(f"Give one of {', '.join(When)}")
    return When(value)


class Artifacts(_Given):
    """Files beneath the working folder that are kept."""

    paths: Annotated[list[Annotated[str, AfterValidator(_check_pattern)]], Field(min_length=1, max_length=MAX_PATTERNS)]
    """Patterns: `*` and `?` within a name, `**` for any number of folders; a folder means everything in it."""
    when: Annotated[When, BeforeValidator(_named)] = When.ON_SUCCESS


KINDS: Final = frozenset({"upload", "git", "archive"})
"""The kinds of sources. pydantic has them in the places of errors, but no document has them."""
SOURCE: Final[TypeAdapter[Upload | Git | Archive | None]] = TypeAdapter(Source | None)
RULES: Final[TypeAdapter[list[Artifacts]]] = TypeAdapter(list[Artifacts])


def credentials(source: Upload | Git | Archive | None) -> list[str]:
    """Return the names of the secrets that a source needs."""
    match source:
        case Git():
            return [name for name in (source.token, source.key) if name]
        case Archive():
            return [source.token] if source.token else []
        case _:
            return []
