"""What a job left in a sandbox that someone else started is ended in an order that leaves nothing of it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from runner.addresses import inside

KEPT = "/networks/bridge"


class Machine:
    """Processes that have Docker make more for as long as they are there."""

    def __init__(self, *more: str) -> None:
        self.things = {KEPT, "/containers/made"}
        self.more = list(more)
        """What has come to be by the time that the processes have ended, and by the next."""

    def end_processes(self, _kept: object, _deadline: float) -> list[str]:
        self.things.update(self.more[:1])
        del self.more[:1]
        return []

    def docker(self, method: str, path: str) -> Any:  # noqa: ANN401 - JSON
        path = path.partition("?")[0].removesuffix("/json")
        if method == "DELETE":
            self.things.remove(path)
            return None
        names = [name.rpartition("/")[2] for name in self.things if name.startswith(path)]
        there = [{"Id": name, "Name": name} for name in names]
        return {"Volumes": there} if path == "/volumes" else there


@pytest.mark.parametrize("more", [["/containers/late"], ["/containers/late", "/volumes/later"]])
def test_what_was_made_until_the_last_process_ended_goes_too(monkeypatch: pytest.MonkeyPatch, more: list[str]) -> None:
    """The trap: Docker was emptied first, and what came after that stayed in a sandbox that was said to be swept."""
    machine = Machine(*more)
    monkeypatch.setattr(inside, "end_processes", machine.end_processes)
    monkeypatch.setattr(inside, "docker", machine.docker)
    assert inside.sweep({"processes": [], "docker": [KEPT]}, time.monotonic() + 60) == []
    assert machine.things == {KEPT}
