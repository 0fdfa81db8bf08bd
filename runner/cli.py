"""The `runner` command: arguments in, text and exit codes out. Errors become a line and a code only here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import typer

from runner.errors import BadJobError, ConfigError, InputError, RunnerError
from sandbox import command_line

_HELP: Final = "Run scripts in sandboxes: each may become root and break everything, and never reaches the host."
_MODULES: Final = {
    "run": "runner.commands.run",
    "serve": "runner.commands.serve",
    **dict.fromkeys(("submit", "validate", "ls", "show", "logs", "cancel"), "runner.commands.jobs"),
    "artifacts": "runner.commands.artifacts",
    **dict.fromkeys(("status", "drain", "resume", "webhooks", "stop"), "runner.commands.operation"),
    "ping": "runner.commands.ping",
    **dict.fromkeys(("backup", "restore"), "runner.commands.state"),
    "doctor": "runner.doctor.cli",
    "token": "runner.commands.tokens",
    "config": "runner.commands.config",
    "gitlab": "runner.gitlab.cli",
}
_EXIT_CODES: Final = ((BadJobError, 64), (InputError, 66), (ConfigError, 78))
"""By kind, as in sysexits.h: 64 usage, 66 no input, 78 configuration; for the rest 69, something needed is
not there."""


def app(words: Sequence[str] = ()) -> typer.Typer:
    """The command line, as far as a command of these words needs it; all of it when they name none."""
    return command_line.assemble(_HELP, _MODULES, words)


def main() -> None:
    """Entry point: any error of ours becomes one line on stderr and an exit code."""
    try:
        app(sys.argv[1:])()
    except RunnerError as error:
        print(f"runner: {error}", file=sys.stderr)
        sys.exit(next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 69))
