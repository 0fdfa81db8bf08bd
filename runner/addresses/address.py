"""Where a sandbox is that someone else started. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Self

from runner.errors import BadJobError

_FORM: Final = re.compile(
    r"(?P<user>[A-Za-z_][A-Za-z0-9_.-]{0,31})@(?P<host>\[[^\[\]]+\]|[^@:\[\]]+):(?P<port>[0-9]{1,5})"
)
_NAME: Final = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?)*\.?"
)


@dataclass(frozen=True, slots=True)
class Address:
    """The way to one SSH server."""

    user: str
    host: str
    """A name, or an address without brackets."""
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read USER@HOST:PORT, with an IPv6 address in brackets. Errors: BadJobError says what is wrong with it."""
        found = _FORM.fullmatch(text)
        if not found:
            raise BadJobError(f"--address {text[:80]!r} is not USER@HOST:PORT, such as {_EXAMPLES}.")
        user, host, port = found["user"], found["host"], int(found["port"])
        if user == "root":
            raise BadJobError(
                f"--address {text}: a job's end ends every process of its user, so that user cannot be root. "
                "Log in as an ordinary user that is there for jobs alone."
            )
        if not 0 < port < 65536:
            raise BadJobError(f"--address {text}: there is no port {port}. Give one from 1 to 65535.")
        return cls(user, _host(text, host), port)

    @property
    def known_as(self) -> str:
        """The host as `known_hosts` and ssh-keyscan(1) name it."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}:{self.port}"


_EXAMPLES: Final = "sandbox@192.0.2.7:22 or sandbox@[2001:db8::7]:2222"


def _host(text: str, host: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise BadJobError(f"--address {text}: {host} is not an IPv6 address.") from None
    if not _NAME.fullmatch(host):
        raise BadJobError(f"--address {text[:80]!r}: {host[:80]!r} is neither a host's name nor an IPv4 address.")
    return host
