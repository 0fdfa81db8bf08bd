"""Where a command for one's own sandboxes finds a keeper."""

from pathlib import Path

import pytest

from sandbox.adhoc import options


def test_a_keeper_that_is_not_for_this_user_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: its run folder is for its group, and `Path.is_socket` raises there what it hides elsewhere."""

    def is_socket(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_socket", is_socket)
    assert options.keeper_of(None) is None
    assert options.keeper_of(Path("/named/socket")) is not None
