"""The keeper's configuration: a TOML file that the keeper alone owns, with a few settings from the environment."""

import os
import tomllib
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, field_validator, model_validator

from sandbox.disk.watch import FASTEST
from sandbox.errors import ConfigError
from sandbox.network import SUBNET_PREFIX, Destination, policy
from sandbox.profile import Profile

DEFAULT_PROFILE = "default"
_FROM_ENVIRONMENT = {"SANDBOX_RUNTIME": "runtime", "SANDBOX_IMAGE": "image", "SANDBOX_WARM": "warm"}

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
"""As in `keeper.protocol`: a profile of any other name could never be asked for."""


class KeeperConfig(BaseModel):
    """What the keeper may make, and how much of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network_range: IPv4Network = IPv4Network("10.213.0.0/16")
    """Where the sandboxes' own small networks come from. It must not overlap with any network the host uses."""

    disk_reserve: ByteSize | None = None
    """Bytes of the engine's file system that jobs may never use; without it 5 %, from 2 to 20 GiB (docs/limits.md)."""

    disk_fastest: Annotated[ByteSize, Field(gt=0)] = ByteSize(FASTEST)
    """Bytes a second that all jobs together can write on this host at most. The more, the earlier they are held up."""

    openings: dict[_Name, Destination] = {}
    """What profiles may open by name, such as a registry on the local network."""

    closings: dict[_Name, Destination] = {}
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
    """Read the configuration; without a file there is one profile, `default`, with every default.

    `SANDBOX_RUNTIME`, `SANDBOX_IMAGE` and `SANDBOX_WARM` stand in for what a profile does not say itself.
    Raises `ConfigError` naming file and field.
    """
    where = str(path) if path else "the environment"
    settings = _read(path) if path else {}
    profiles = settings.setdefault("profiles", {DEFAULT_PROFILE: {}})
    stand_ins = {field: environment[name] for name, field in _FROM_ENVIRONMENT.items() if environment.get(name)}
    if isinstance(profiles, dict):
        settings["profiles"] = {
            name: {**stand_ins, **profile} if isinstance(profile, dict) else profile
            for name, profile in profiles.items()
        }
    try:
        return KeeperConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"The keeper's configuration is wrong ({where}): {_describe(error)}.") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"The configuration file {path} does not exist. Make it, or leave `--config` away.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration file {path} cannot be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The configuration file {path} is not valid TOML: {error}.") from None


def _describe(error: ValidationError) -> str:
    complaints = error.errors(include_url=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, c['loc']))}: {c['msg']}, not {c['input']!r}" for c in complaints)[:1000]
