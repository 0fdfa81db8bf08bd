"""Builds a command line from the given command's modules only; loads the others just to list the commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Annotated

import typer


def assemble(about: str, modules: Mapping[str, str], words: Sequence[str]) -> typer.Typer:
    """Build the command line for the command in the first word, or for all of them when it is none, as for help.

    `modules` maps each command to the module whose `app` has it. An `app` with a name is one command with commands of
    its own.
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
    """Handle the options before a command. Without a callback, typer would turn a lone command into the whole."""
