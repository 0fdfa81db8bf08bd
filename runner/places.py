"""Where the service's API is. Whoever only asks for that pays for nothing else."""

from __future__ import annotations

import os
from typing import Final

DEFAULT_URL: Final = "http://127.0.0.1:8080"
URL_VARIABLE: Final = "RUNNER_URL"
"""The environment variable that names another address."""


def compose_is_here() -> bool:
    """Whether the service may be one that compose started from this folder; it is not where nobody may look."""
    return os.path.exists("compose.yaml")  # noqa: PTH110 - that of `Path` raises there
