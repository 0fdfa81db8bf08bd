"""Where the service's API is. Vocabulary: whoever only names it pays for nothing else."""

from __future__ import annotations

from typing import Final

DEFAULT_URL: Final = "http://127.0.0.1:8080"
URL_VARIABLE: Final = "RUNNER_URL"
"""The environment variable that names another address."""
