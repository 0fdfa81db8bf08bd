"""Skips libraries' imports for features that we do not use, so that our own commands start in half the time.

Not for the library: it shares its process with programs that may want just these features.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_NOT_NEEDED = (
    "docker.transport.sshconn",  # for engines over SSH, which we never use; imports paramiko before anybody logs in
    "invoke",  # for `Match exec` in a client's ssh_config, which we do not read; imports asyncio, YAML and mocks
)


def do_without() -> None:
    """Skip them in this whole process. Call before the libraries are imported: they take these for missing extras."""
    leave_out(*_NOT_NEEDED)


def leave_out(*modules: str) -> None:
    """Make each import of these modules fail as if they were not installed."""
    for name in modules:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]


@contextmanager
def loading() -> Iterator[None]:
    """Suspend garbage collection during imports: they make no garbage, and looking takes an eighth of their time.

    The imported objects are exempt from later collections as well, which makes those faster.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
