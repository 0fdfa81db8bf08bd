"""The `sandbox` command: arguments in, text and exit codes out. Errors become a line and a code only here."""

import sys
from collections.abc import Sequence
from typing import Final

import typer

from sandbox import command_line, lean
from sandbox.errors import (
    ConfigError,
    ConnectionLost,
    EngineError,
    KeeperError,
    NameInUse,
    NoSuchSandbox,
    SandboxError,
    SandboxFault,
    SandboxUnreachable,
    TransferFailed,
)
from sandbox.evaluation.errors import EvaluationError

_HELP: Final = "Sandboxes: unprivileged containers with their own Docker Engine, one for you or many for CI jobs."
_MODULES: Final = {
    **dict.fromkeys(("up", "run", "cp", "ssh-config", "reset", "rm"), "sandbox.adhoc.cli"),
    **dict.fromkeys(("ls", "inspect", "hold", "release", "shell"), "sandbox.adhoc.anywhere"),
    **dict.fromkeys(("keeper", "ping", "metrics", "purge", "config"), "sandbox.keeper.cli"),
    "doctor": "sandbox.doctor.cli",
    "images": "sandbox.images.cli",
    "evaluation": "sandbox.evaluation.cli",
}
_EXIT_CODES: Final = (
    (ConfigError, 78),
    (ConnectionLost, 75),
    (TransferFailed, 74),
    ((EngineError, KeeperError, EvaluationError, SandboxFault, SandboxUnreachable), 69),
    ((NoSuchSandbox, NameInUse), 66),
)
"""By kind, as in sysexits.h: 78 configuration, 75 lost under way, 74 files, 69 something needed is not there, 66 no
such name, or one that is taken; 1 for the rest."""


def app(words: Sequence[str] = ()) -> typer.Typer:
    """The command line, as far as a command of these words needs it; all of it when they name none."""
    return command_line.assemble(_HELP, _MODULES, words)


def main() -> None:
    """Entry point: any error of ours becomes one line on stderr and an exit code."""
    lean.do_without()
    try:
        app(sys.argv[1:])()
    except SandboxError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        sys.exit(next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1))


if __name__ == "__main__":
    main()
