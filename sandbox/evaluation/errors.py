"""What can go wrong when an evaluation engine is set up.

    SandboxError
    └── EvaluationError
        ├── CommandFailed       a program of the host refused, was missing or took too long
        ├── PackagesMissing     something must be installed, and cannot be installed from here
        ├── EngineNotUp         the private engine did not come up, or would not go away
        └── BaseImageUnavailable neither a registry nor Debian's archive gave a base image

A message is a sentence with the cause, followed by the next step where there is one.
"""

from sandbox.errors import SandboxError


class EvaluationError(SandboxError):
    """Root of the errors of this package."""


class CommandFailed(EvaluationError):
    """A program of the host refused, was missing or took too long; the message ends with its output."""


class PackagesMissing(EvaluationError):
    """Something must be installed, and cannot be installed from here."""


class EngineNotUp(EvaluationError):
    """The private engine did not come up, or would not go away."""


class BaseImageUnavailable(EvaluationError):
    """Neither a registry nor Debian's archive gave a base image."""
