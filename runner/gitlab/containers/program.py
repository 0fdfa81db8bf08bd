"""Makes one script for the sandbox from modules of `inside` and their order."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Final

_PACKAGE: Final = "runner.gitlab.containers.inside"
_ENTRIES: Final = {
    "main": ("engine", "commands", "logins", "services", "prepare"),
    "tell_all": ("engine", "services"),
    "in_container": ("engine", "enter"),
    "end_container": ("engine", "enter"),
    "beside_services": ("engine", "enter"),
}
"""The modules of each entry, in the order in which they need each other; the last one has the function."""

# `order` has a line of its own: it may hold secrets, and Python shows the line of an error.
# Registered under their full names, the modules find each other by their usual imports, without a package on disk.
_SCRIPT: Final = """\
#!/usr/bin/env -S python3 -I -S
import sys, types
package = "{package}"
for at, sign in enumerate(package + "."):
    if sign == ".":
        sys.modules[package[:at]] = types.ModuleType(package[:at])
for name, source in {sources!a}.items():
    module = sys.modules[package + "." + name] = types.ModuleType(name)
    setattr(sys.modules[package], name, module)
    exec(compile(source, name, "exec"), module.__dict__)
order = {order!a}
sys.exit(module.{function}(order))
"""

_SOURCES: Final = {
    name: resources.files(_PACKAGE).joinpath(f"{name}.py").read_text()
    for name in ("engine", "commands", "logins", "services", "prepare", "enter")
}


def program(function: str, order: Mapping[str, object]) -> bytes:
    """Return a script that calls a function with `order`, made of plain values, and exits with its result."""
    sources = {name: _SOURCES[name] for name in _ENTRIES[function]}
    return _SCRIPT.format(package=_PACKAGE, sources=sources, function=function, order=dict(order)).encode("ascii")
