"""Nobody sees half a change, and a file may be anything that others have put there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner import durable


def test_a_document_is_replaced_as_a_whole_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "document"
    durable.write(path, b"one")
    durable.write(path, b"another")
    assert durable.read(path, 1000) == b"another"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: after a power failure, a renamed file without content is an empty one."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        done.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def note_replace(path: Path, target: Path) -> Path:
        done.append(f"replace {path.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    durable.write(tmp_path / "document", b"")
    assert done == ["sync document.new", "replace document.new", f"sync {tmp_path.name}"]


def test_a_full_disk_leaves_the_old_document_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "document"
    durable.write(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        durable.write(path, b"new")
    assert durable.read(path, 100) == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_sparse_giant_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "document").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="more than 100 bytes"):
        durable.read(tmp_path / "document", 100)


@pytest.mark.timeout(20)
def test_what_is_not_a_file_is_neither_waited_for_nor_followed(tmp_path: Path) -> None:
    """The trap: opening a FIFO waits for its other end."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "target").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("fifo", "folder", "link"):
        with pytest.raises((ValueError, OSError)):
            durable.read(tmp_path / name, 100)
        with pytest.raises((ValueError, OSError)):
            durable.end_with(tmp_path / name, 0, b"end")
    assert (tmp_path / "target").read_text() == "{}"


@given(
    output=st.binary(max_size=20),
    ending=st.binary(min_size=1, max_size=10),
    written=st.integers(0, 10),
    more=st.binary(max_size=5),
)
def test_whatever_a_crash_left_of_an_ending_is_put_right(
    tmp_path_factory: pytest.TempPathFactory, output: bytes, ending: bytes, written: int, more: bytes
) -> None:
    path = tmp_path_factory.mktemp("ending", numbered=True) / "log"
    path.write_bytes(output + ending[:written] + more)
    for _ in range(2):
        durable.end_with(path, len(output), ending)
        assert path.read_bytes() == output + ending


def test_an_ending_makes_no_file_longer_than_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"short")
    durable.end_with(tmp_path / "log", 1 << 60, b"end\n")
    assert (tmp_path / "log").read_bytes() == b"shortend\n"
