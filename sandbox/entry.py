"""The entry point of the `sandbox` command. Only here do errors become a line on stderr and an exit code.

A health check runs four times a minute for ever, and so skips everything that only other commands need.
"""

import os
import sys
from typing import Final

from sandbox import exits, places
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

_EXIT_CODES: Final = (
    (ConfigError, 78),
    (ConnectionLost, 75),
    (TransferFailed, 74),
    ((EngineError, KeeperError, EvaluationError, SandboxFault, SandboxUnreachable), 69),
    ((NoSuchSandbox, NameInUse), 66),
)
"""By kind, as in sysexits.h: 78 configuration, 75 connection lost, 74 files, 69 something needed is missing, 66 an
unknown name or one in use; 1 for the rest."""


def main() -> None:
    """Entry point."""
    with exits.told("sandbox"):
        try:
            _run()
        except SandboxError as error:
            print(f"sandbox: {error}", file=sys.stderr)
            sys.exit(next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1))


def _run() -> None:
    if sys.argv[1:] == ["ping"]:
        from sandbox.keeper import ping  # noqa: PLC0415 - only a health check needs it

        sys.exit(ping.main(os.environ.get(places.SOCKET_VARIABLE) or places.DEFAULT_SOCKET))
    from sandbox import cli, lean  # noqa: PLC0415 - a health check does not pay for it

    lean.do_without()
    cli.app(sys.argv[1:])()


if __name__ == "__main__":
    main()
