"""Archives that climb, bomb or lie write nothing outside of their folder, and come to an end."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.execution.files.inside.unpack import unpack
from sandbox.archives import UnsafeArchive


def archive(*members: tuple[str, dict[str, object]], content: bytes = b"x", mode: str = "w") -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:  # type: ignore[call-overload]
        for name, more in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in more.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    file.seek(0)
    return file


def link(target: str) -> dict[str, object]:
    return {"type": tarfile.SYMTYPE, "linkname": target, "size": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_files_folders_links_and_the_right_to_execute_come_out(folder: Path, mode: str) -> None:
    members = archive(
        ("./", {"type": tarfile.DIRTYPE, "size": 0}),
        ("./bin/run", {"mode": 0o4755, "mtime": 1_600_000_000}),
        ("plain", {"mode": 0o600}),
        ("hard", {"type": tarfile.LNKTYPE, "linkname": "plain", "size": 0}),
        ("bin/up", link("../plain")),
        mode=mode,
    )
    unpack(members, folder, 100, 100)
    run = (folder / "bin" / "run").stat()
    assert (run.st_mode & 0o7777, run.st_mtime) == (0o755, 1_600_000_000)
    assert (folder / "plain").stat().st_mode & 0o7777 == 0o644
    assert (folder / "hard").read_bytes() == (folder / "bin" / "up").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([("/etc/passwd", {})], "outside"),
        ([("../up", {})], "outside"),
        ([("a/../../up", {})], "outside"),
        ([("a", link("/etc"))], "leads outside"),
        ([("a", link("../b"))], "leads outside"),
        ([("a/b", link("../../c"))], "leads outside"),
        ([("a", link("b/../.."))], "leads outside"),
        ([("a", link("b")), ("a/x", {})], "It has a twice, or below"),
        ([("a", link("b")), ("a/x", link("c"))], "is below a link"),
        ([("a", {}), ("a", {})], "It has a twice"),
        ([("a", {}), ("a/b", {})], "It has a twice, or below a file"),
        ([("a", {}), ("a/b/c", {})], "It has a/b twice, or below a file"),
        ([("h", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd", "size": 0})], "outside"),
        ([("h", {"type": tarfile.LNKTYPE, "linkname": "none", "size": 0})], "does not have"),
        ([("d", {"type": tarfile.CHRTYPE, "size": 0})], "no file, folder or link"),
        ([("f", {"type": tarfile.FIFOTYPE, "size": 0})], "no file, folder or link"),
        ([("deep/" * 1100 + "f", {})], "deeper than 256"),
        ([("deep/" * 1100 + "f", link("x"))], "deeper than 256"),
        ([(f"f{number}", {}) for number in range(11)], "more than"),
    ],
)
def test_what_is_refused(folder: Path, members: list[tuple[str, dict[str, object]]], why: str) -> None:
    with pytest.raises(UnsafeArchive, match=why):
        unpack(archive(*members), folder, 1000, 10)
    assert [path.name for path in folder.parent.iterdir()] == ["in"]


def test_a_link_that_was_there_first_is_not_written_through(folder: Path, tmp_path: Path) -> None:
    """The trap: `a -> ..` and then `a/x` would land outside. Links come last."""
    with pytest.raises(UnsafeArchive):
        unpack(archive(("a", link("..")), ("a/x", {})), folder, 1000, 10)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("squeeze", [gzip.compress, lzma.compress])
def test_a_bomb_ends_at_its_limit(folder: Path, squeeze: Callable[[bytes], bytes]) -> None:
    bomb = squeeze(archive(("zeros", {}), content=bytes(64 * 1024 * 1024)).getvalue())
    assert len(bomb) < 200_000
    with pytest.raises(UnsafeArchive, match="more than 1000 bytes"):
        unpack(io.BytesIO(bomb), folder, 1000, 10)


def test_a_bomb_of_names_ends(folder: Path) -> None:
    """The trap: tarfile keeps a member's extended headers in memory, however long they are."""
    bomb = gzip.compress(archive(("x" * 8_000_000, {})).getvalue())
    with pytest.raises(UnsafeArchive, match="names that are longer"):
        unpack(io.BytesIO(bomb), folder, 1000, 10)


@pytest.mark.parametrize(
    "content",
    [b"no archive", b"PK\x03\x04zip", b"\x1f\x8bbroken", gzip.compress(b"x" * 2000)[:-9]],
    ids=["text", "zip", "broken", "cut"],
)
def test_what_is_no_archive_is_said_to_be_none(folder: Path, content: bytes) -> None:
    with pytest.raises(UnsafeArchive, match="no tar archive, or a damaged one"):
        unpack(io.BytesIO(content), folder, 1000, 10)


def test_a_cut_archive_is_damaged(folder: Path) -> None:
    whole = archive(("a", {}), content=b"x" * 5000).getvalue()
    with pytest.raises(UnsafeArchive):
        unpack(io.BytesIO(whole[:3000]), folder, 10_000, 10)
