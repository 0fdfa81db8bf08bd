"""What libraries import for features that we do not use: our own commands do without, and start in half the time.

Nothing here is for the library: it shares its process with programs that may want just these features.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NOT_NEEDED = (
    "docker.transport.sshconn",  # engines over SSH, which ours never is; brings paramiko before anybody logs in
    "invoke",  # `Match exec` in a client's ssh_config, which we do not read; brings asyncio, YAML and mocks
)


def do_without() -> None:
    """For this whole process, and before the libraries are imported: both take these for extras that are missing."""
    leave_out(*_NOT_NEEDED)


def leave_out(*modules: str) -> None:
    """Have each import of these fail as if they were not installed."""
    for name in modules:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


@contextmanager
def loading() -> Iterator[None]:
    """For imports: what they make is not garbage, and to look for some takes an eighth of their time.

    Nor is it looked at ever after, which makes each later search through everything shorter.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
