"""A command line that loads the modules of the command that was given, and the others only to list what there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated

import typer


def assemble(about: str, modules: Mapping[str, str], words: Sequence[str]) -> typer.Typer:
    """The command line with what the first word names, or with everything when it names nothing, as for help.

    `modules` has, by command, the module whose `app` brings it. An `app` with a name is one command, of which its own
    are a part.
    """
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help=about,
        callback=_itself,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    named = modules.get(words[0]) if words else None
    for module in [named] if named else dict.fromkeys(modules.values()):
        app.add_typer(import_module(module).app)
    return app


def _tell_version(context: typer.Context, asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415 - nobody else needs it

        print(context.find_root().info_name, version("sandbox-runner"))
        raise typer.Exit


def _itself(
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """What comes before a command; it also has a command be a word of its own: typer would make one alone the whole."""
