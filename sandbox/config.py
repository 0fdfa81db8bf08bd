"""Every setting of the keeper, with its default and the reason for it; and the file that only the keeper owns.

A new setting is a field here, or in the profile, and nothing else: its variable (`SANDBOX_` and its path), its option
and its entry in docs/configuration.md follow from it. Settings below names that the file chooses (profiles, openings,
closings) have neither variable nor option, except for the few variables that stand in for a profile's missing values.
"""

import os
from collections.abc import Mapping
from functools import cache
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, ByteSize, Field, field_validator, model_validator

from sandbox.disk.watch import FASTEST
from sandbox.errors import ConfigError
from sandbox.logs import Format
from sandbox.network import SUBNET_PREFIX, Destination, policy
from sandbox.places import DEFAULT_HOME, DEFAULT_RUN_FOLDER
from sandbox.profile import Profile
from sandbox.settings import toml
from sandbox.settings.complaints import together
from sandbox.settings.layers import Layers, Options, WrongSettings, unknown
from sandbox.settings.loaded import Loaded
from sandbox.settings.model import About, Section, Setting, settings_of

DEFAULT_PROFILE = "default"

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
"""As in `keeper.protocol`: a profile with any other name could never be asked for."""


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path, such as /srv/sandbox, since a service is started in any folder")
    return path


_Folder = Annotated[Path, AfterValidator(_absolute)]


class Log(Section):
    """The keeper's own log, on stderr."""

    format: Format = Format.TEXT
    """`text` or `json` (docs/logs.md). Text: a keeper that was just started is read by a person."""


class KeeperConfig(Section):
    """Where the keeper lives, what it may make, and how much of it."""

    variables: ClassVar = "SANDBOX"

    home: _Folder = Path(DEFAULT_HOME)
    """State folder of this keeper alone: what it remembers of its sandboxes. Where a host keeps what services must not
    lose, and systemd's `StateDirectory=sandbox`."""

    run_folder: _Folder = Path(DEFAULT_RUN_FOLDER)
    """Folder of its own, for the socket `keeper/socket`. Where a host keeps sockets, and where clients look unless
    SANDBOX_KEEPER names another one."""

    group: Annotated[
        Annotated[str, Field(min_length=1, coerce_numbers_to_str=True)] | None, Field(examples=["runner"])
    ] = None
    """Group, by name or number, that may use the socket. None: root alone may, since whoever can use it can lend
    sandboxes."""

    patience: Annotated[float, Field(ge=0, le=30 * 24 * 3600)] = 300.0
    """Seconds to wait for running jobs when stopped by TERM. Most jobs end in five minutes; whatever stops it from
    outside must wait longer, as our unit's TimeoutStopSec and compose's stop_grace_period do (10 minutes)."""

    log: Log = Log()

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


@cache
def settings() -> tuple[Setting, ...]:
    """Return every setting."""
    return tuple(settings_of(KeeperConfig))


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> KeeperConfig:
    """Return the configuration alone: see `read`."""
    return read(path, environment).config


def read(
    path: Path | None, environment: Mapping[str, str] = os.environ, options: Options | None = None
) -> Loaded[KeeperConfig]:
    """Read the configuration; without a file there is one profile, `default`, with every default.

    `SANDBOX_RUNTIME`, `SANDBOX_IMAGE` and `SANDBOX_WARM` stand in for what a profile does not say itself.
    Raises `ConfigError` naming each mistake by file and line, by variable, or by option.
    """
    try:
        document = toml.read(path) if path else toml.Document("the defaults", {}, {})
        document.tables.setdefault("profiles", {DEFAULT_PROFILE: {}})
        layers = Layers(KeeperConfig, document, settings())
        layers.add_environment(environment)
        layers.add_options(options or {})
        return layers.loaded(unknown(environment, settings()))
    except toml.BadFile as error:
        raise ConfigError(str(error)) from None
    except WrongSettings as wrong:
        raise ConfigError(together("The keeper's configuration is wrong:", wrong.told)) from None
