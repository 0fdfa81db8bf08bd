"""Options that several commands share, and their combined meaning.

Only functions that need the Docker Engine import its client: a command that borrows from a keeper does not.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sandbox import places
from sandbox.adhoc.life import Life, seconds
from sandbox.adhoc.record import NAME
from sandbox.adhoc.store import Store, default_folder
from sandbox.errors import ConfigError
from sandbox.keeper.client import KeeperClient

if TYPE_CHECKING:
    from sandbox.adhoc.machine import Machines

DEFAULT_NAME = "default"
DEFAULT_SOCKET = Path(places.DEFAULT_SOCKET)


def _name(text: str) -> str:
    if not re.fullmatch(NAME, text):
        raise typer.BadParameter(f"{text!r} is not up to 40 lower-case letters, digits and _.- in a row.")
    return text


def _length(text: str | float) -> float:
    if isinstance(text, float):
        return text
    try:
        return seconds(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def own_names(begun: str) -> list[str]:
    """Return the names of the user's own sandboxes that begin like this, for a shell; does not ask the engine."""
    folder = default_folder()
    with suppress(ConfigError):  # the command itself explains the error better
        names = [record.name for record in Store(folder).records()] if folder.is_dir() else []
        return [name for name in names if name.startswith(begun)]
    return []


Name = Annotated[str, typer.Argument(help="What you call it.", callback=_name, autocompletion=own_names)]
AnyName = Annotated[
    str,
    typer.Argument(help="As `sandbox ls` names it; one of your own, or the keeper's.", autocompletion=own_names),
]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Keeper = Annotated[
    Path | None,
    typer.Option("--keeper", envvar="SANDBOX_KEEPER", help="The keeper's socket; else the usual one, if it is there."),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", envvar="SANDBOX_CONFIG", help="A file like the keeper's, with your profiles (TOML)."),
]
ProfileName = Annotated[str, typer.Option("--profile", help="A profile of that file.")]
Cpus = Annotated[float | None, typer.Option(help="CPU time in cores.")]
Memory = Annotated[str | None, typer.Option(help="Memory, such as 8GiB.")]
Image = Annotated[str | None, typer.Option(help="Another image; one that is on the engine.")]
Ttl = Annotated[
    float | None, typer.Option(parser=_length, metavar="TIME", help="Remove it then, however busy: 90s, 30m, 8h.")
]
Idle = Annotated[
    float | None, typer.Option(parser=_length, metavar="TIME", help="Remove it when nobody was connected for so long.")
]


def machines(config: Path | None = None) -> Machines:
    """Return the user's sandboxes on the engine that the environment names. Removes those whose life is over."""
    from sandbox.adhoc.machine import Machines  # noqa: PLC0415 - see above

    return Machines.of_user(config)


def life_of(usual: Life, ttl: float | None, idle: float | None) -> Life:
    """Return the usual life, changed by the options."""
    return Life(ttl if ttl is not None else usual.ttl, idle if idle is not None else usual.idle)


def keeper_of(socket: Path | None) -> KeeperClient | None:
    """Return the named keeper, or else the usual one if it exists and this user may ask it."""
    if socket is None and not os.access(DEFAULT_SOCKET, os.W_OK):
        return None
    return KeeperClient(socket or DEFAULT_SOCKET)


def closed_keeper() -> str:
    """Return why this user may not ask the usual keeper; empty if there is none, or the user may."""
    try:
        DEFAULT_SOCKET.stat()
    except PermissionError:  # only the keeper's group may enter its folder
        closed = True
    except OSError:
        closed = False
    else:
        closed = not os.access(DEFAULT_SOCKET, os.W_OK)
    return f"The keeper at {DEFAULT_SOCKET} answers only root and the group of that socket." if closed else ""
