"""A command line that loads the modules of the command that was given, and the others only to list what there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module

import typer


def assemble(app: typer.Typer, modules: Mapping[str, str], words: Sequence[str]) -> typer.Typer:
    """Add what the first word names to the command line, or everything when it names nothing, as for help.

    `modules` has, by command, the module whose `app` brings it. An `app` with a name is one command, of which its own
    are a part.
    """
    named = modules.get(words[0]) if words else None
    for module in [named] if named else dict.fromkeys(modules.values()):
        app.add_typer(import_module(module).app)
    return app
