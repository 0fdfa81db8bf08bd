"""The record of one ad-hoc sandbox, by which other processes find the sandbox, and remove it if nobody else does."""

from ipaddress import IPv4Network
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sandbox.adhoc.life import Life
from sandbox.network import Policy
from sandbox.profile import InnerDocker, Profile
from sandbox.template import InstallationId, SandboxName

NAME = r"^[a-z0-9][a-z0-9_.-]{0,39}$"
"""The form of a name, which is part of file names and of Host lines in ssh_config(5)."""


class Access(BaseModel):
    """How to log in to a sandbox."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str
    host_key: str
    """The public key to pin, one line in OpenSSH's format."""
    client_key: Annotated[str | None, Field(repr=False)]
    """The private key, as PEM. None when the maker keeps it to itself: nobody else can log in then."""


class Record(BaseModel):
    """One ad-hoc sandbox. The record is written before anything is made, and removed after everything is gone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=NAME)]
    """The maker's name for the sandbox."""
    installation: InstallationId
    generation: int
    profile: Profile
    docker: InnerDocker
    policy: Policy
    """What the sandbox may reach, if there are walls to enforce it."""
    life: Life
    """The life that was ordered."""
    made: float
    """Unix time."""
    ends: float
    """Unix time of the end of its time to live; `hold` postpones it."""
    idle: float | None
    """Seconds that the sandbox may be idle; None for no limit, as while it is held."""
    network: int
    """The network namespace of its maker: its connections can be seen only from there."""
    container: str | None = None
    """The container's id; None while it is being made."""
    subnet: IPv4Network | None = None
    """None while it is being made: until it is set, the walls let nothing through."""
    access: Access | None = None
    """None while it is being made."""
    unwalled: str | None = None
    """Why no walls stand around the sandbox; None when they stand."""

    @property
    def sandbox(self) -> SandboxName:
        """Return the name of its container, network and volume on the engine."""
        return SandboxName(self.installation, self.generation)
