"""The API's description as it is now. `python -m tests.runner.api.openapi` writes it to the docs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final, cast

from runner.api.app import make_app
from runner.api.token import Token
from runner.service.service import Service
from tests.runner.service.state import State

FILE: Final = Path(__file__).parents[3] / "docs" / "openapi.json"


def document() -> dict[str, Any]:
    """What `GET /openapi.json` answers."""
    with tempfile.TemporaryDirectory() as folder:
        first = Token(Path(folder) / "token")
        state = State(Path(folder))
        return make_app(cast(Service, None), first, state.tokens, state.deliveries).openapi()


if __name__ == "__main__":
    FILE.write_text(json.dumps(document(), indent=1) + "\n")
