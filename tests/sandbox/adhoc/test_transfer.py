"""The last step of copying out of a sandbox: moving the files to their place."""

from pathlib import Path
from typing import cast

import pytest

from sandbox import ssh
from sandbox.adhoc import cli, transfer
from sandbox.adhoc.session import Login
from sandbox.adhoc.transfer import _move, own_name
from sandbox.errors import TransferFailed


def folder(path: Path, content: str) -> Path:
    """One with a file in it."""
    path.mkdir(parents=True)
    (path / "file").write_text(content)
    return path


def test_a_copy_takes_the_place_of_what_is_there_as_a_whole(tmp_path: Path) -> None:
    made, place = folder(tmp_path / "stage" / "dist", "new"), folder(tmp_path / "dist", "old")
    (place / "stale").touch()
    _move(made, place, tmp_path / "stage" / "before")
    assert {path.name: path.read_text() for path in place.iterdir()} == {"file": "new"}
    assert (tmp_path / "stage" / "before" / "stale").exists()


@pytest.mark.parametrize("before", [None, "no/such/folder"])
def test_a_copy_is_never_lost_to_what_is_in_its_place(tmp_path: Path, before: str | None) -> None:
    """It may have taken an hour to build, and its sandbox goes next."""
    made, place = folder(tmp_path / "stage" / "dist", "new"), folder(tmp_path / "dist", "old")
    with pytest.raises(TransferFailed, match="is in the way") as told:
        _move(made, place, tmp_path / before if before else None)
    assert (place / "file").read_text() == "old"
    spare = str(told.value).removesuffix(".").rpartition(" ")[2]
    assert Path(spare, "file").read_text() == "new"
    assert Path(spare).parent.parent == tmp_path


@pytest.mark.parametrize("path", ["/", ".", "", "..", "a/.."])
def test_what_has_no_name_is_no_copy(path: str) -> None:
    with pytest.raises(TransferFailed, match="names no file or folder"):
        own_name(path)


@pytest.mark.parametrize("path", ["out", "./out", "a/out/", "/home/sandbox/out"])
def test_a_copy_has_the_last_name(path: str) -> None:
    assert own_name(path) == "out"


def test_a_link_that_is_left_out_steers_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transfer, "get", lambda *_, **__: ["out/\x1b]0;owned\x07\nsandbox: all is well"])
    cli._fetch(Login("mine", cast("ssh.Transport", None)), "out", Path())
    told = capsys.readouterr().err
    assert (told.count("\n"), "\x1b" in told, "]0;owned" in told) == (1, False, True)
