"""The `runner` command: arguments in, text and exit codes out. Errors pass through, to `runner.entry`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import typer

from sandbox import command_line

_HELP: Final = "Run scripts in sandboxes: each may become root and break everything, and never reaches the host."
_MODULES: Final = {
    "run": "runner.commands.run",
    "serve": "runner.commands.serve",
    **dict.fromkeys(("submit", "validate", "ls", "show", "logs", "cancel"), "runner.commands.jobs"),
    "artifacts": "runner.commands.artifacts",
    **dict.fromkeys(("status", "drain", "resume", "sandboxes", "webhooks", "stop"), "runner.commands.operation"),
    "ping": "runner.commands.ping",
    **dict.fromkeys(("backup", "restore"), "runner.commands.state"),
    "doctor": "runner.doctor.cli",
    "token": "runner.commands.tokens",
    "config": "runner.commands.config",
    "gitlab": "runner.gitlab.cli",
}


def app(words: Sequence[str] = ()) -> typer.Typer:
    """Return the command line with the commands that these words need; with all of them when they name none."""
    return command_line.assemble(_HELP, _MODULES, words)
