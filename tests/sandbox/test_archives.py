"""Hostile archives: whatever they contain, nothing is written outside of the folder."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox import archives
from sandbox.archives import UnsafeArchive, stays_inside

MUCH = 1024**2


def unpack(archive: archives.Readable, folder: Path) -> list[str]:
    """One that begins each path with the folder that links are to stay in."""
    return archives.unpack(archive, folder, MUCH, 1000, depth=1)


def archive(*members: tuple[str, bytes | str | int], size: int | None = None) -> io.BytesIO:
    """Of files (bytes), symbolic links (str) and other types of member (their number in the format)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, what in members:
            member = tarfile.TarInfo(name)
            member.mode, member.mtime = 0o6777, 1_600_000_000
            match what:
                case bytes():
                    member.size = len(what)
                    tar.addfile(member, io.BytesIO(what))
                    continue
                case str():
                    member.type, member.linkname = tarfile.SYMTYPE, what
                case _:
                    member.type, member.linkname = str(what).encode(), "target"
            tar.addfile(member)
    buffer.seek(0)
    return buffer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "outer" / "folder"
    made.mkdir(parents=True)
    return made


def test_files_and_folders_arrive_without_powers(folder: Path) -> None:
    left_out = unpack(archive(("out", 5), ("out/bin", b"#!"), ("out/deep/er", b"x"), ("out/link", "deep/er")), folder)
    assert left_out == []
    assert (folder / "out/link").read_bytes() == b"x"
    assert stat.S_IMODE((folder / "out/bin").stat().st_mode) == 0o755
    assert (folder / "out/bin").stat().st_mtime == 1_600_000_000


@pytest.mark.parametrize(
    "members",
    [
        [("../escaped", b"x")],
        [("/tmp/escaped-from-a-sandbox", b"x")],
        [("a/../../escaped", b"x")],
        [("null", 3)],  # a character device
        [("block", 4)],
        [("fifo", 6)],
        [("hard", 1)],
        [("large", b"x" * (MUCH + 1))],
        [("deep/" * 1100 + "f", b"x")],
        [("deep/" * 1100, 5)],
        [("deep/" * 1100 + "f", "target")],
    ],
)
def test_what_is_not_safe_is_refused(folder: Path, members: list[tuple[str, bytes | str | int]]) -> None:
    with pytest.raises(UnsafeArchive):
        unpack(archive(*members), folder)
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
    assert not Path("/tmp/escaped-from-a-sandbox").exists()


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ([("same", b"1"), ("same", b"2")], "same"),
        ([("file", b"1"), ("file/below", b"2")], "file"),
        ([("file", b"1"), ("file/far/below", b"2")], "file/far"),
        ([("out", 5), ("out/link", "it"), ("out/link/below", b"x")], "out/link"),
    ],
)
def test_what_cannot_be_beside_another_is_named(
    folder: Path, members: list[tuple[str, bytes | str | int]], named: str
) -> None:
    with pytest.raises(UnsafeArchive, match=f"It has {named} twice, or below a file"):
        unpack(archive(*members), folder)


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100, archive(("a", b"x" * 5000)).getvalue()[:3000]])
def test_rubbish_is_refused(folder: Path, content: bytes) -> None:
    with pytest.raises(UnsafeArchive):
        unpack(io.BytesIO(content), folder)


def test_a_file_through_a_link_stays_inside(folder: Path) -> None:
    """Links come last: a file that is sent below one is below a folder of ours."""
    left_out = unpack(archive(("out", "../.."), ("out/escaped", b"x")), folder)
    assert left_out == ["out"]
    assert not (folder.parent.parent / "escaped").exists()


def test_a_name_without_end_is_not_kept_in_memory(folder: Path) -> None:
    """tarfile reads the whole of a long name before anybody can say how long is too long."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1024**4

    class Endless(io.RawIOBase):
        sent = 0

        def read(self, size: int = -1, /) -> bytes:
            content = header.tobuf(tarfile.GNU_FORMAT) if self.sent == 0 else b"a" * size
            self.sent += len(content)
            return content

    endless = Endless()
    with pytest.raises(UnsafeArchive, match="longer than any"):
        unpack(endless, folder)
    assert endless.sent < 4 * MUCH


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TARGETS = st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=5).map("/".join) | st.just("/etc")


@settings(max_examples=100)
@given(st.dictionaries(PATHS, TARGETS, max_size=5))
def test_no_link_leads_out_whatever_the_others_do(links: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "folder")
        folder.mkdir()
        try:
            left_out = unpack(archive(*links.items()), folder)
        except UnsafeArchive:
            return
        made = [path for path in folder.rglob("*") if path.is_symlink()]
        assert len(made) + len(left_out) == len(links)
        for path in made:
            assert Path(os.path.realpath(path)).is_relative_to(folder / path.relative_to(folder).parts[0])


@pytest.mark.parametrize(
    ("link", "target", "inside"),
    [
        ("out/a", "b", True),
        ("out/a", "../out/b", False),
        ("out/deep/a", "../b", True),
        ("out/a", "../../b", False),
        ("out/a", "b/../c", False),
        ("out/a", "/out/b", False),
        ("out/a", "", False),
        ("a", "..", False),
    ],
)
def test_links_that_stay_inside(link: str, target: str, inside: bool) -> None:
    assert stays_inside(PurePosixPath(link), target, depth=1) is inside


_NAMES = st.sampled_from(["a", "b", "..", ".", "c"])


@given(st.lists(_NAMES, min_size=1, max_size=5), st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=4))
def test_a_link_that_stays_inside_does_so_by_its_words_alone(target: list[str], path: list[str]) -> None:
    if stays_inside(PurePosixPath(*path), "/".join(target)):
        reached = os.path.normpath("/".join(["/root", *path[:-1], *target]))
        assert reached == "/root" or reached.startswith("/root/")
