"""Makes, proves, lends and recreates sandboxes: unprivileged containers with their own sshd and Docker Engine.

    from sandbox import Sandbox

    with Sandbox() as box:
        print(box.run("docker version").check().stdout)

These names are imported only when they are used: the keeper's client needs none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox.adhoc.execution import Result, Stream
    from sandbox.adhoc.sandbox import Sandbox
    from sandbox.errors import (
        CommandFailed,
        CommandTimedOut,
        ConnectionLost,
        OutputTooLarge,
        SandboxError,
        TransferFailed,
        TransferRefused,
    )
    from sandbox.profile import InnerDocker, Profile

_FROM = {
    "CommandFailed": "sandbox.errors",
    "CommandTimedOut": "sandbox.errors",
    "ConnectionLost": "sandbox.errors",
    "InnerDocker": "sandbox.profile",
    "OutputTooLarge": "sandbox.errors",
    "Profile": "sandbox.profile",
    "Result": "sandbox.adhoc.execution",
    "Sandbox": "sandbox.adhoc.sandbox",
    "SandboxError": "sandbox.errors",
    "Stream": "sandbox.adhoc.execution",
    "TransferFailed": "sandbox.errors",
    "TransferRefused": "sandbox.errors",
}

__all__ = [
    "CommandFailed",
    "CommandTimedOut",
    "ConnectionLost",
    "InnerDocker",
    "OutputTooLarge",
    "Profile",
    "Result",
    "Sandbox",
    "SandboxError",
    "Stream",
    "TransferFailed",
    "TransferRefused",
]


def __getattr__(name: str) -> object:
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_FROM[name]), name)
