"""How a command of ours ends where none of them sees to it: Ctrl-C, and an output that nobody takes."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def told(program: str) -> Iterator[None]:
    """Have the block end the process without a traceback then.

    With 130 after Ctrl-C, also while a command is still loaded; with 1 where whoever reads has had enough; and with a
    line and 74, which sysexits.h has for input and output, where there is no room.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout:
                sys.stdout.flush()  # here, where a full disk can still be told
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
        if error.errno == errno.EPIPE:
            sys.exit(1)
        print(f"{program}: {error.filename or 'The output'} cannot be written: {error.strerror}.", file=sys.stderr)
        sys.exit(os.EX_IOERR)
