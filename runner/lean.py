"""What libraries load, and look for, for features that we do not use: the runner's commands do without.

For a whole process of ours, before the libraries are imported.
"""

import ctypes.util
import os
import sys

from sandbox.lean import loading

__all__ = ["do_without", "loading"]

_NOT_NEEDED = ("httpx._main",)  # httpx's own command line; brings rich and pygments


def do_without() -> None:
    """Have the libraries take these for extras that are not there, which they can do without as well."""
    for name in _NOT_NEEDED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    # Plugins, for which pydantic reads what every installed package says of itself.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # asyncssh asks for liboqs and nettle, for algorithms that sessions with sandboxes never use. Each question starts
    # ldconfig, and where there is one a compiler and its linker: a tenth of a second of processor time.
    ctypes.util.find_library = lambda name: None  # noqa: ARG005
