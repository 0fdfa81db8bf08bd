"""`sandbox keeper` unchanged, on a runtime that needs daemons of the test. First word: `RUNTIME,PROGRAM,PROGRAM`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sandbox import daemons
from sandbox.entry import main as sandbox
from tests.stand_ins import StandIn, service


def words(runtime: str, stand_ins: Sequence[StandIn]) -> tuple[str, ...]:
    """What `main` takes first."""
    return (",".join((runtime, *service(stand_ins).programs)),)


def main() -> None:
    """Be `sandbox`, with them."""
    runtime, *programs = sys.argv.pop(1).split(",")
    daemons.SERVICES = {runtime: daemons.Service("stand-in", tuple(programs))}
    sandbox()
