"""The `sandbox` command's first step. Errors become a line on stderr and an exit code only here.

A health check, which asks four times a minute for ever, skips all that a person's command needs.
"""

import errno
import os
import sys
from typing import Final

from sandbox import places
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
"""By kind, as in sysexits.h: 78 configuration, 75 lost under way, 74 files, 69 something needed is not there, 66 no
such name, or one that is taken; 1 for the rest."""


def main() -> None:
    """Entry point."""
    try:
        _tell_errors()
    except KeyboardInterrupt:  # also while a command is still loaded
        sys.exit(130)


def _tell_errors() -> None:
    try:
        try:
            _run()
        finally:
            if sys.stdout:
                sys.stdout.flush()  # here, where a full disk can still be told
    except SandboxError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        sys.exit(next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1))
    except OSError as error:
        if error.errno not in {errno.EPIPE, errno.ENOSPC, errno.EDQUOT}:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
        if error.errno == errno.EPIPE:  # whoever reads has had enough
            sys.exit(1)
        print(f"sandbox: {error.filename or 'The output'} cannot be written: {error.strerror}.", file=sys.stderr)
        sys.exit(74)


def _run() -> None:
    if sys.argv[1:] == ["ping"]:
        from sandbox.keeper import ping  # noqa: PLC0415 - nobody else needs it

        sys.exit(ping.main(os.environ.get(places.SOCKET_VARIABLE) or places.DEFAULT_SOCKET))
    from sandbox import cli, lean  # noqa: PLC0415 - a health check does not pay for it

    lean.do_without()
    cli.app(sys.argv[1:])()


if __name__ == "__main__":
    main()
