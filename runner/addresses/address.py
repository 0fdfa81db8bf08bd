"""The address of a sandbox that someone else started. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Self

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
    """A host name, or an IP address without brackets."""
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse USER@HOST:PORT, with an IPv6 address in brackets. Errors: ValueError names the expected form."""
        found = _FORM.fullmatch(text)
        if not found:
            raise ValueError(f"must be USER@HOST:PORT, such as {_EXAMPLES}")
        user, host, port = found["user"], found["host"], int(found["port"])
        if user == "root":
            raise ValueError(
                "must have an ordinary user that is there for jobs alone, and never root: "
                "a job's end ends every process of its user"
            )
        if not 0 < port < 65536:
            raise ValueError("must have a port from 1 to 65535")
        return cls(user, _host(host), port)

    @property
    def known_as(self) -> str:
        """Return the host as `known_hosts` and ssh-keyscan(1) name it."""
        return self.host if self.port == 22 else f"[{self.host}]:{self.port}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}:{self.port}"


_EXAMPLES: Final = "sandbox@192.0.2.7:22 or sandbox@[2001:db8::7]:2222"


def _host(host: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError("must have an IPv6 address in its brackets") from None
    if not _NAME.fullmatch(host):
        raise ValueError("must have a host's name or an IPv4 address before its port")
    return host
