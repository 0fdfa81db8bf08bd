"""How a command for one's own sandboxes finds a keeper."""

import os
from pathlib import Path

import pytest

from sandbox.adhoc import anywhere, options
from sandbox.errors import NoSuchSandbox


@pytest.fixture
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the usual keeper would be, for somebody with no sandboxes."""
    monkeypatch.setattr(options, "DEFAULT_SOCKET", tmp_path / "socket")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    return tmp_path / "socket"


@pytest.fixture
def closed(usual: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As for a user who is not of its group. The trap: its folder is, and to look there raises."""

    def stat(self: Path, **_: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "stat", stat)
    return usual


@pytest.mark.usefixtures("closed")
def test_a_keeper_that_is_not_for_this_user_is_none_and_that_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert options.keeper_of(None) is None
    assert options.keeper_of(Path("/named/socket")) is not None
    anywhere.ls()
    told = capsys.readouterr()
    assert told.out == "No sandboxes of yours on unix:///nowhere.sock.\n"
    assert "answers only root and the group of that socket. Its sandboxes are not listed.\n" in told.err
    with pytest.raises(NoSuchSandbox, match=r"no sandbox x of yours. The keeper at .* answers only root"):
        anywhere.inspect("x")


def test_where_there_is_no_keeper_none_is_told_of(usual: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert options.keeper_of(None) is None
    anywhere.ls()
    assert capsys.readouterr().err == ""
    with pytest.raises(NoSuchSandbox, match="There is no keeper either"):
        anywhere.inspect("x")
    usual.touch()
    assert options.keeper_of(None) is not None
    assert options.closed_keeper() == ""
