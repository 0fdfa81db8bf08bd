"""Programs that the runner sends into the sandbox: modules of ours, and the command that reads them from its input.

The runner brings them along, so both always have the same version.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib import resources
from typing import Final

MODULES: Final = tuple(f"runner.execution.{name}" for name in ("plan", "folder", "supervisor", "launcher"))
"""The launcher's modules, in the order of their imports."""

# The modules are registered under their full names, so their usual imports work without a package around them.
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


@dataclass(frozen=True, slots=True)
class Program:
    """Modules of ours as one command in the sandbox."""

    source: bytes
    """The modules' source, which the command reads first."""
    arguments: tuple[str, ...]
    """The arguments that make a Python without site packages read and run the program."""

    @property
    def command(self) -> str:
        """The command for the sandbox's shell."""
        return f"exec python3 {shlex.join(self.arguments)}"


def assemble(*modules: str) -> Program:
    """Make a program of modules of ours, given in the order of their imports. The last one has `main`."""
    sources = {name: _source(name) for name in modules}
    words = (f"{name}:{len(source)}" for name, source in sources.items())
    return Program(b"".join(sources.values()), ("-I", "-S", "-c", _BOOTSTRAP, *words))


def _source(name: str) -> bytes:
    package, _, module = name.rpartition(".")
    return resources.files(package).joinpath(f"{module}.py").read_bytes()


LAUNCHER: Final = assemble(*MODULES)
