"""A real `runner serve`. It has no keeper, so it starts no job."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import programs
from tests.waiting import until
from tests.web import answers


@contextmanager
def service(state: Path) -> Iterator[str]:
    """Run one on a state folder, whose file `log` gets what it says. Yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    places = ["--state", str(state), "--listen", f"127.0.0.1:{port}", "--keeper", str(state / "no-keeper")]
    with (state / "log").open("wb") as log:
        running = programs.start(programs.runner, "serve", *places, stderr=log)
    try:
        until("the service answers", lambda: answers(f"{url}/live"))
        yield url
    finally:
        running.kill()
        running.wait()
