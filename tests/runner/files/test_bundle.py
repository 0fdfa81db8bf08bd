"""A sandbox's list is checked before anything of it is written, and an archive is kept whole or not at all."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import ProtocolError
from runner.execution.files import bundle
from runner.execution.files.bundle import Bundle, Kept, Member, admitted
from runner.execution.files.inside.patterns import Pattern
from runner.execution.files.inside.unpack import unpack

ALL = ["**"]


def write(path: Path, *members: tuple[Member, bytes], left_out: tuple[str, ...] = ()) -> Kept:
    made = Bundle(path)
    try:
        for member, content in members:
            made.begin(member)
            made.write(content)
            made.end()
        return made.keep(left_out)
    finally:
        made.close()


FILE = Member("a/b", 3, None, executable=True, changed=1_600_000_000)


def test_what_is_kept_can_be_read_again_and_by_tar(tmp_path: Path) -> None:
    long = Member("/".join(["ü" * 100] * 4), 1)
    kept = write(tmp_path / "j", (FILE, b"abc"), (Member("l", link="a/b"), b""), (long, b"x"), left_out=("c: no",))
    assert bundle.read(tmp_path / "j") == kept
    assert (kept.size, kept.left_out) == ((tmp_path / "j").stat().st_size, ("c: no",))
    (tmp_path / "out").mkdir()
    with (tmp_path / "j").open("rb") as archive:
        unpack(archive, tmp_path / "out", 100, 3)
    assert (tmp_path / "out" / "l").read_bytes() == b"abc"
    with tarfile.open(tmp_path / "j") as tar:
        assert [(one.name, one.mode) for one in tar][:2] == [("a/b", 0o755), ("l", 0o644)]


def test_half_an_archive_leaves_what_was_kept_before(tmp_path: Path) -> None:
    """The trap: a runner that collects again after a crash, and fails, would lose what it had."""
    first = write(tmp_path / "j", (FILE, b"abc"))
    again = Bundle(tmp_path / "j")
    again.begin(FILE)
    again.close()
    assert bundle.read(tmp_path / "j") == first
    second = write(tmp_path / "j", (Member("other", 1), b"x"))
    assert bundle.read(tmp_path / "j") == second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["j", "lists"]


def test_a_list_that_could_not_be_read_again_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write(tmp_path / "j", (FILE, b"abc"))
    monkeypatch.setattr(bundle, "_MAX_LIST", 200)
    with pytest.raises(ProtocolError, match=r"names of 2 files have .* Pack them"):
        write(tmp_path / "j", (Member("a" * 100, 1), b"x"), (Member("b" * 100, 1), b"x"))
    assert bundle.read(tmp_path / "j") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["j", "lists"]


@pytest.mark.parametrize(
    "names",
    [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a/b/c", "a/b"), ("a", "b", "a/b/c/d"), ("a.b", "a/b"), ("b", "a")],
    ids="-".join,
)
def test_no_file_is_there_twice_below_another_or_out_of_order(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(ProtocolError, match="twice, below"):
        write(tmp_path / "j", *((Member(name, 1), b"x") for name in names))
    assert [path.name for path in tmp_path.iterdir()] == ["lists"]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"path": 1},
        {"path": ""},
        {"path": "."},
        {"path": "/a"},
        {"path": "../a"},
        {"path": "a/../b"},
        {"path": "a//b"},
        {"path": "a/"},
        {"path": "a\n"},
        {"path": "a\x1b[2J"},
        {"path": "x" * 5000},
        pytest.param({"path": "a/" * 101 + "f"}, id="too deep"),
        {"path": "\udcff"},
        {"path": "a", "size": -1},
        {"path": "a", "size": True},
        {"path": "a", "size": "1"},
        {"path": "a", "size": 1 << 60},
        {"path": "a", "changed": -1},
        {"path": "a", "link": 1},
        {"path": "a", "link": ""},
        {"path": "a", "link": "/etc"},
        {"path": "a", "link": "../b"},
        pytest.param({"path": "a", "link": "b" * 4097}, id="long link"),
        {"path": "a", "link": "b", "size": 1},
    ],
    ids=str,
)
def test_what_a_sandbox_may_not_announce(document: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        admitted({"pattern": 0, **document}, ALL)


def test_only_what_was_asked_for_is_taken() -> None:
    assert admitted({"path": "dist/a", "pattern": 1, "size": 1}, ["x", "dist/*"]) == Member("dist/a", 1)


@pytest.mark.parametrize("number", [0, 2, -1, True, 1.0, "1", None, 10**30])
def test_what_the_pattern_that_it_names_does_not_mean_is_not_taken(number: object) -> None:
    with pytest.raises(ProtocolError, match="not asked for"):
        admitted({"path": "dist/a", "pattern": number, "size": 1}, ["x", "dist/*"])


def test_one_pattern_is_tried_whatever_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trap: a job may have thousands, and each of them may take a thousandth of a second to read alone."""
    tried: list[str] = []

    def reading(text: str) -> Pattern:
        tried.append(text)
        return Pattern(text)

    monkeypatch.setattr(bundle, "Pattern", reading)
    admitted({"path": "a", "pattern": 700}, ["**/" * 300 + "a"] * 1000)
    assert len(tried) == 1


def test_only_what_is_kept_is_remembered_of_deep_paths(tmp_path: Path) -> None:
    """The trap: the folders above each file, of which one path can have two thousand."""
    made = Bundle(tmp_path / "j")
    members = [admitted({"pattern": 0, "path": f"{number:04}/{'a/' * 99}f"}, ALL) for number in range(200)]
    tracemalloc.start()
    try:
        for member in members:
            made.begin(member)
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
        made.close()


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet="a./\0\n\x1bü", max_size=8),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@given(st.dictionaries(st.sampled_from(["path", "pattern", "size", "link", "changed", "executable"]), _ANYTHING))
def test_what_is_taken_stays_beneath_a_folder_whatever_is_announced(document: dict[str, object]) -> None:
    try:
        member = admitted({"pattern": 0, **document}, ALL)
    except ProtocolError:
        return
    assert not member.path.startswith("/")
    assert ".." not in member.path.split("/")
    assert tarfile.TarInfo.frombuf(bundle._header(member)[-512:], "utf-8", "strict").size == member.size


@pytest.mark.parametrize("content", [b"[]", b"no json", b"{}", b'{"members": 1, "left_out": [], "size": 0}'])
def test_a_list_that_is_none_is_an_error_that_says_so(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "j").write_bytes(content)
    with pytest.raises((ValueError, KeyError, TypeError)):
        bundle.read(tmp_path / "j")


def test_what_is_written_is_bounded_by_what_was_announced(tmp_path: Path) -> None:
    kept = write(tmp_path / "j", (Member("a", 512), bytes(512)), (Member("b", 513), bytes(513)))
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "j").read_bytes())) as tar:
        assert [one.size for one in tar] == [member.size for member in kept.members]
