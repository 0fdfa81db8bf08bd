"""Ends our commands after Ctrl-C or a failed output, where no command does it itself."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def told(program: str) -> Iterator[None]:
    """End the process without a traceback when the block is interrupted or its output fails.

    Exits with 130 after Ctrl-C, also while a command is loading; with 1 when the reader is gone; and, with a line, with
    74 (sysexits.h: input/output) when there is no room.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout:
                sys.stdout.flush()  # here, where a full disk can still be reported
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python complains at its end
        if error.errno == errno.EPIPE:
            sys.exit(1)
        print(f"{program}: {error.filename or 'The output'} cannot be written: {error.strerror}.", file=sys.stderr)
        sys.exit(os.EX_IOERR)
