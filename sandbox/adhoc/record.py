"""What is remembered of one ad-hoc sandbox, so that another process can find it, and end it when nobody else does."""

from ipaddress import IPv4Network
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from sandbox.adhoc.life import Life
from sandbox.network import Policy
from sandbox.profile import InnerDocker, Profile
from sandbox.template import InstallationId, SandboxName

NAME = r"^[a-z0-9][a-z0-9_.-]{0,39}$"
"""Names are parts of file names and of Host lines in ssh_config(5)."""


class Access(BaseModel):
    """How to log in to a sandbox."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str
    host_key: str
    """Public, one line in OpenSSH's format; to be pinned."""
    client_key: Annotated[str | None, Field(repr=False)]
    """Private, PEM. None when its maker keeps it to itself: nobody else gets in then."""


class Record(BaseModel):
    """One ad-hoc sandbox. It is written before anything is made, and removed after everything is gone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=NAME)]
    """What its maker calls it."""
    installation: InstallationId
    generation: int
    profile: Profile
    docker: InnerDocker
    policy: Policy
    """What it may reach, as long as there are walls to see to it."""
    life: Life
    """As it was asked for."""
    made: float
    """Unix time."""
    ends: float
    """Unix time, by its time to live; `hold` puts it off."""
    idle: float | None
    """Seconds that it may be idle; None for ever, as while it is held."""
    network: int
    """The network namespace of its maker: who is connected can be seen only from there."""
    container: str | None = None
    """The container's id; None while it is being made."""
    subnet: IPv4Network | None = None
    """None while it is being made: the walls let nothing through until then."""
    access: Access | None = None
    """None while it is being made."""
    unwalled: str | None = None
    """Why no walls stand around it; None when they do."""

    @property
    def sandbox(self) -> SandboxName:
        """What its container, network and volume are called on the engine."""
        return SandboxName(self.installation, self.generation)
