"""The program that is sent into the sandbox: the launcher's modules, and the command that takes them from its input.

It travels with the runner, so that both are always of the same version.
"""

from __future__ import annotations

import shlex
from importlib import resources
from typing import Final

_MODULES: Final = ("plan", "folder", "supervisor", "launcher")
"""In the order in which they need each other; the last one has `main`."""

# Registered under their full names, they find each other by their usual imports without any package around them.
_BOOTSTRAP: Final = """\
import os, sys
for word in sys.argv[1:]:
    name, size = word.split(":")
    missing, source = int(size), b""
    while missing:
        piece = os.read(0, missing)
        if not piece: sys.exit(1)
        source += piece
        missing -= len(piece)
    module = sys.modules[name] = type(sys)(name)
    exec(compile(source, name, "exec"), module.__dict__)
module.main()
"""

_SOURCES: Final = {
    f"runner.execution.{name}": resources.files("runner.execution").joinpath(f"{name}.py").read_bytes()
    for name in _MODULES
}
#: What the command reads before it is the launcher.
SOURCE: Final = b"".join(_SOURCES.values())
#: The arguments of a Python without site packages that make it the launcher.
ARGUMENTS: Final = ("-I", "-S", "-c", _BOOTSTRAP, *(f"{name}:{len(source)}" for name, source in _SOURCES.items()))
#: The command for the sandbox's shell.
COMMAND: Final = f"exec python3 {shlex.join(ARGUMENTS)}"
