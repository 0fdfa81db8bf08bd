"""Switches off features of libraries that the runner's commands do not use, so that nothing loads or looks for them.

For a whole process of ours, before the libraries are imported.
"""

import ctypes.util
import os

from sandbox.lean import leave_out, loading

__all__ = ["do_without", "loading"]


def do_without() -> None:
    """Make the libraries believe that these optional parts are not installed, which they can cope with."""
    leave_out(
        "httpx._main",  # httpx's own command line; brings rich and pygments
        "pydantic.v1",  # a second whole pydantic, which FastAPI asks whether a model is one of its own
    )
    # For plugins, pydantic reads the metadata of every installed package.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # asyncssh looks for liboqs and nettle, for algorithms that sessions with sandboxes never use. Each search starts
    # ldconfig, and if present a compiler and its linker: a tenth of a second of processor time.
    ctypes.util.find_library = lambda name: None  # noqa: ARG005
