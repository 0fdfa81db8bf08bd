"""The `sandbox` command: arguments in, text and exit codes out. Errors pass through, to `sandbox.entry`."""

from collections.abc import Sequence
from typing import Final

import typer

from sandbox import command_line

_HELP: Final = "Sandboxes: unprivileged containers with their own Docker Engine, one for you or many for CI jobs."
_MODULES: Final = {
    **dict.fromkeys(("up", "run", "cp", "ssh-config", "reset", "rm"), "sandbox.adhoc.cli"),
    **dict.fromkeys(("ls", "inspect", "hold", "release", "shell"), "sandbox.adhoc.anywhere"),
    **dict.fromkeys(("keeper", "ping", "metrics", "purge", "config"), "sandbox.keeper.cli"),
    "doctor": "sandbox.doctor.cli",
    "images": "sandbox.images.cli",
    "evaluation": "sandbox.evaluation.cli",
}


def app(words: Sequence[str] = ()) -> typer.Typer:
    """Build the command line for a command of these words; the whole one when they name none."""
    return command_line.assemble(_HELP, _MODULES, words)
