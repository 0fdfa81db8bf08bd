"""An order for a sandbox. Pure."""

from dataclasses import dataclass

from pydantic import ValidationError

from sandbox.adhoc.life import Life
from sandbox.config import KeeperConfig
from sandbox.errors import ConfigError
from sandbox.profile import InnerDocker, Profile
from sandbox.settings.complaints import demand


@dataclass(frozen=True, slots=True)
class Order:
    """The kind of sandbox that is wanted."""

    name: str
    profile: Profile
    life: Life
    docker: InnerDocker = InnerDocker.EAGER
    keeps_key: bool = False
    """Whether its key is kept, so that other processes of this user can log in too."""


def profile_of(
    settings: KeeperConfig,
    chosen: str | Profile,
    cpus: float | None = None,
    memory: str | int | None = None,
    image: str | None = None,
) -> Profile:
    """Return a profile, given by name or in full, with these fields replaced. Raises `ConfigError`."""
    if isinstance(chosen, str) and chosen not in settings.profiles:
        known = ", ".join(settings.profiles)
        raise ConfigError(f"There is no profile {chosen}; the configuration has: {known}.")
    profile = settings.profiles[chosen] if isinstance(chosen, str) else chosen
    said = {"cpus": cpus, "memory": memory, "image": image}
    changes = {field: value for field, value in said.items() if value is not None}
    try:
        return Profile.model_validate({**profile.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise ConfigError(
            f"{'.'.join(map(str, first['loc']))}: {demand(first['msg'])}, not {first['input']!r}."
        ) from None
