"""What libraries load, and look for, for features that we do not use: the runner's commands do without.

For a whole process of ours, before the libraries are imported.
"""

import ctypes.util
import os

from sandbox.lean import leave_out, loading

__all__ = ["do_without", "loading"]


def do_without() -> None:
    """Have the libraries take these for extras that are not there, which they can do without as well."""
    leave_out(
        "httpx._main",  # httpx's own command line; brings rich and pygments
        "pydantic.v1",  # a whole second pydantic, which FastAPI asks whether one of its models was given
    )
    # Plugins, for which pydantic reads what every installed package says of itself.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # asyncssh asks for liboqs and nettle, for algorithms that sessions with sandboxes never use. Each question starts
    # ldconfig, and where there is one a compiler and its linker: a tenth of a second of processor time.
    ctypes.util.find_library = lambda name: None  # noqa: ARG005
