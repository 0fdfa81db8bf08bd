"""Where the service's API is. In a module of its own, so that a caller who needs only this imports nothing else."""

from __future__ import annotations

import os
from typing import Final

DEFAULT_URL: Final = "http://127.0.0.1:8080"
URL_VARIABLE: Final = "RUNNER_URL"
"""The environment variable that names another address."""


def compose_is_here() -> bool:
    """Return whether compose may have started the service from this folder; False if we may not look."""
    return os.path.exists("compose.yaml")  # noqa: PTH110 - that of `Path` raises there
