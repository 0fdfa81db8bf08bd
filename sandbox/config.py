"""The keeper's configuration: a TOML file that the keeper alone owns, with a few settings from the environment."""

import os
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated

from pydantic import ByteSize, Field, ValidationError, field_validator, model_validator

from sandbox.disk.watch import FASTEST
from sandbox.errors import ConfigError
from sandbox.network import SUBNET_PREFIX, Destination, policy
from sandbox.profile import Profile
from sandbox.settings import toml
from sandbox.settings.complaints import complaints, together
from sandbox.settings.loaded import Loaded, Origin, Source
from sandbox.settings.model import About, Key, Section, settings_of

DEFAULT_PROFILE = "default"
_FROM_ENVIRONMENT = {one.about.also: one.key[0] for one in settings_of(Profile) if one.about.also}
"""By variable: the settings that every profile takes from the environment, where it does not say them itself."""

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
"""As in `keeper.protocol`: a profile of any other name could never be asked for."""


class KeeperConfig(Section):
    """What the keeper may make, and how much of it."""

    network_range: IPv4Network = IPv4Network("10.213.0.0/16")
    """Where the sandboxes' own small networks come from. It must not overlap with any network the host uses. The
    default is out of the way of Docker's own pools and of usual home and office networks, and holds 8192 sandboxes."""

    disk_reserve: Annotated[ByteSize | None, About(live=True)] = None
    """Bytes of the engine's file system that jobs may never use; without it 5 %, from 2 to 20 GiB (docs/limits.md)."""

    disk_fastest: Annotated[ByteSize, Field(gt=0), About(live=True)] = ByteSize(FASTEST)
    """Bytes a second that all jobs together can write on this host at most. The more, the earlier they are held
    up. A fast SSD takes 2 GiB."""

    openings: dict[_Name, Destination] = Field(default_factory=dict)
    """What profiles may open by name, such as a registry on the local network. None is there by itself."""

    closings: dict[_Name, Destination] = Field(default_factory=dict)
    """What profiles may close by name. `private` is there without being defined."""

    profiles: dict[_Name, Profile] = Field(default_factory=lambda: {DEFAULT_PROFILE: Profile()}, min_length=1)
    """By name. A runner names a profile and nothing else."""

    @model_validator(mode="after")
    def _every_name_is_defined(self) -> "KeeperConfig":
        for name, profile in self.profiles.items():
            try:
                policy(profile, self.openings, self.closings, ())
            except ValueError as error:
                raise ValueError(f"profiles.{name}.{error}") from None
        return self

    @field_validator("network_range")
    @classmethod
    def _room_for_subnets(cls, value: IPv4Network) -> IPv4Network:
        if value.prefixlen > SUBNET_PREFIX - 4:
            raise ValueError(f"must be /{SUBNET_PREFIX - 4} or larger, to hold 16 sandboxes at least")
        return value


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> KeeperConfig:
    """See `read`."""
    return read(path, environment).config


def read(path: Path | None, environment: Mapping[str, str] = os.environ) -> Loaded[KeeperConfig]:
    """Read the configuration; without a file there is one profile, `default`, with every default.

    `SANDBOX_RUNTIME`, `SANDBOX_IMAGE` and `SANDBOX_WARM` stand in for what a profile does not say itself.
    Raises `ConfigError` naming each mistake by file and line, or by variable.
    """
    try:
        document = toml.read(path) if path else toml.Document("the defaults", {}, {})
    except toml.BadFile as error:
        raise ConfigError(str(error)) from None
    origins = {key: Origin(Source.FILE, document.place(key)) for key in document.lines}
    profiles = document.tables.setdefault("profiles", {DEFAULT_PROFILE: {}})
    for profile, said in profiles.items() if isinstance(profiles, dict) else ():
        for variable, setting in _FROM_ENVIRONMENT.items():
            if isinstance(said, dict) and setting not in said and environment.get(variable):
                said[setting] = environment[variable]
                origins["profiles", profile, setting] = Origin(Source.VARIABLE, variable)

    def place(key: Key) -> str:
        return origins[key].place if key in origins else document.place(key)

    try:
        return Loaded(KeeperConfig.model_validate(document.tables), origins)
    except ValidationError as error:
        wrong = complaints(error, KeeperConfig, place)
        raise ConfigError(together("The keeper's configuration is wrong:", wrong)) from None
