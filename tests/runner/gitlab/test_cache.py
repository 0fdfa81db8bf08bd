"""Caches on the runner's disk, and their way to and from a sandbox."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.errors import CacheError
from runner.execution.session import Session
from runner.execution.transfer import File
from runner.gitlab.cache import Cache, bring_in_helper, has_object_store, names
from runner.gitlab.store import CacheStore
from runner.job import UNTRUSTED
from runner.service.watermark import MARKS, Marks, Room, judge
from runner.service.watermark import Disk as Level
from tests.runner.conftest import Sandbox
from tests.waiting import eventually

LIMIT = 10_000
DISK = 100_000
"""Bytes of the disk, of which 15,000 are to be free."""
OURS = "gitlab-bf08810b-1-protected"
THEIRS = "gitlab-bf08810b-1-unprotected"
PATH = "group/project/default-protected/cache.zip"


@dataclass
class Disk:
    """The disk of the caches, and of whatever else."""

    others: int = 0

    def look(self, folder: Path) -> Room:
        return Room(DISK - self.others - sum(path.stat().st_size for path in folder.glob("*/*")), DISK)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def store(tmp_path: Path, disk: Disk) -> Iterator[CacheStore]:
    store = CacheStore(tmp_path / "caches", LIMIT, look=disk.look)
    yield store
    store.close()


def put(store: CacheStore, content: bytes, path: str = PATH, owner: str = OURS) -> File:
    entry = File(path, len(content), 1_600_000_000)
    with store.write(owner, entry) as file:
        file.write(content)
    return entry


def get(store: CacheStore, entry: File, owner: str = OURS) -> bytes:
    with store.read(owner, entry) as file:
        return file.read()


def used(tmp_path: Path) -> int:
    return sum(path.stat().st_size for path in (tmp_path / "caches").glob("*/*"))


def test_a_cache_is_kept_for_its_owner_alone(store: CacheStore) -> None:
    entry = put(store, b"ours")
    assert (store.entries(OURS), get(store, entry)) == ([entry], b"ours")
    assert store.entries(THEIRS) == []
    with pytest.raises(FileNotFoundError):
        get(store, entry, THEIRS)


def test_a_cache_is_replaced_as_a_whole(store: CacheStore) -> None:
    put(store, b"old")
    with pytest.raises(RuntimeError), store.write(OURS, File(PATH, 3, 5)) as file:  # noqa: PT012 - the two are one
        file.write(b"n")
        raise RuntimeError
    assert [get(store, entry) for entry in store.entries(OURS)] == [b"old"]
    with store.read(OURS, store.entries(OURS)[0]) as reading:
        put(store, b"new")
        assert reading.read() == b"old"
    assert [get(store, entry) for entry in store.entries(OURS)] == [b"new"]


def test_what_was_not_used_for_the_longest_time_goes_first(store: CacheStore) -> None:
    one, two = (put(store, b"x" * 4000, name) for name in ("one", "two"))
    get(store, one)
    three = put(store, b"x" * 4000, "three", THEIRS)
    assert (store.entries(OURS), store.entries(THEIRS)) == ([one], [three])
    assert two not in store.entries(OURS)


def test_a_lower_cap_holds_from_the_start(store: CacheStore, tmp_path: Path) -> None:
    put(store, b"x" * 4000, "one")
    two = put(store, b"x" * 4000, "two")
    store.close()
    lower = CacheStore(tmp_path / "caches", 5000)
    assert lower.entries(OURS) == [two]
    lower.close()


def test_one_that_is_too_large_drops_nothing(store: CacheStore) -> None:
    kept = put(store, b"small")
    with pytest.raises(CacheError, match="keeps 10000 bytes"):
        put(store, b"x" * LIMIT, "large")
    assert store.entries(OURS) == [kept]


def test_an_announced_size_drops_nothing(store: CacheStore) -> None:
    """The trap: it is a sandbox's word, and the caches of every project would go for bytes that never come."""
    kept = put(store, b"x" * 4000, owner=THEIRS)
    with pytest.raises(RuntimeError), store.write(OURS, File(PATH, 9000, 1)) as file:  # noqa: PT012 - the two are one
        file.write(b"x" * 3000)
        raise RuntimeError
    assert store.entries(THEIRS) == [kept]


def test_caches_leave_the_disk_well(store: CacheStore, disk: Disk) -> None:
    """The trap: it is the state folder's disk, and no job starts while that is low."""
    disk.others = DISK - 15_000 - 6000
    one = put(store, b"x" * 2500, "one")
    two = put(store, b"x" * 2500, "two")
    assert store.entries(OURS) == [one, two]
    three = put(store, b"x" * 2500, "three", THEIRS)
    assert (store.entries(OURS), store.entries(THEIRS)) == ([two], [three])
    with pytest.raises(CacheError, match="no room"):
        put(store, b"x" * 6500, "four")
    assert (store.entries(OURS), store.entries(THEIRS)) == ([two], [three])
    assert judge(Level.FULL, disk.look(store._folder), MARKS) is Level.WELL


def test_caches_make_room_for_what_else_fills_the_disk(store: CacheStore, disk: Disk) -> None:
    old, new = put(store, b"x" * 2500, "old"), put(store, b"x" * 2500, "new")
    store.shrink()
    assert set(store.entries(OURS)) == {old, new}
    disk.others = DISK - 15_000 - 3000
    store.shrink()
    assert store.entries(OURS) == [new]
    disk.others = DISK
    store.shrink()
    assert store.entries(OURS) == []


def test_a_disk_that_fills_up_while_a_cache_comes_keeps_none(store: CacheStore, disk: Disk) -> None:
    entry = File(PATH, 3000, 1)
    with pytest.raises(CacheError, match="no room"), store.write(OURS, entry) as file:  # noqa: PT012 - the two are one
        file.write(b"x" * 3000)
        disk.others = DISK
    assert store.entries(OURS) == []


def test_other_marks_hold_from_the_next_look_on(store: CacheStore) -> None:
    put(store, b"x" * 2500)
    store.follow(Marks(low=DISK, low_part=0.9))
    store.shrink()
    assert store.entries(OURS) == []


def test_a_folder_has_one_runner(store: CacheStore, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="another runner"):
        CacheStore(tmp_path / "caches", LIMIT)
    with pytest.raises(CacheError, match="cannot be used"):
        CacheStore(Path("/dev/null/caches"), LIMIT)


def test_what_is_no_cache_is_not_taken_for_one(store: CacheStore, tmp_path: Path) -> None:
    entry = put(store, b"content")
    [path] = (tmp_path / "caches").glob("*/*")
    for content in (b"", b"no JSON\n", b'{"path": 1}\n', b"x" * 100_000):
        path.write_bytes(content)
        assert store.entries(OURS) == []
        with pytest.raises(ValueError, match=r"^"):
            get(store, entry)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, LIMIT - 500)), max_size=12))
def test_the_cap_holds_and_the_last_one_is_there(
    store: CacheStore, tmp_path: Path, sizes: list[tuple[str, int]]
) -> None:
    for name, size in sizes:
        entry = put(store, b"x" * size, name)
        assert entry in store.entries(OURS)
        assert used(tmp_path) <= LIMIT


def test_what_is_being_written_counts(store: CacheStore, tmp_path: Path) -> None:
    """The trap: caches that were each promised room beside the others would be above the cap together."""
    with store.write(OURS, File("one", 6000, 1)) as file:
        file.write(b"x" * 6000)
        with pytest.raises(CacheError, match="take all the room"):
            put(store, b"x" * 6000, "two")
        put(store, b"x" * 3000, "three")
    assert {entry.path for entry in store.entries(OURS)} == {"one", "three"}
    assert used(tmp_path) <= LIMIT


def test_many_jobs_at_once_keep_the_cap_and_read_whole_files(store: CacheStore, tmp_path: Path) -> None:
    def work(number: int) -> None:
        content = bytes([number]) * 3000
        for _ in range(5):
            with contextlib.suppress(CacheError):  # the room is promised to others
                put(store, content, f"cache-{number % 4}")
            for entry in store.entries(OURS):
                try:
                    found = get(store, entry)
                except FileNotFoundError:
                    continue
                assert (len(found), len(set(found))) == (3000, 1)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert used(tmp_path) <= LIMIT


def _write_forever(folder: Path, begun: Path) -> None:
    store = CacheStore(folder, LIMIT)
    with store.write(OURS, File(PATH, 9000, 1)) as file:
        file.write(b"half")
        file.flush()
        begun.touch()
        signal.pause()


@pytest.mark.anyio
async def test_a_kill_leaves_the_old_one_and_no_part(tmp_path: Path) -> None:
    folder = tmp_path / "caches"
    store = CacheStore(folder, LIMIT)
    put(store, b"old")
    store.close()
    process = multiprocessing.get_context("spawn").Process(target=_write_forever, args=(folder, tmp_path / "begun"))
    process.start()
    await eventually((tmp_path / "begun").exists)
    process.kill()
    process.join()
    assert len(list(folder.glob("*/*.part"))) == 1
    store = CacheStore(folder, LIMIT)
    assert len(list(folder.glob("*/*"))) == 1
    assert [get(store, entry) for entry in store.entries(OURS)] == [b"old"]
    store.close()


# -- to and from a sandbox --------------------------------------------------------------------------------------------


@pytest.fixture
async def session(sandbox: Sandbox) -> AsyncIterator[Session]:
    session = await Session.open(sandbox.access(), sandbox.settings())
    yield session
    await session.close()


def script(path: str, more: str = "") -> bytes:
    """A stage's script as gitlab-runner makes it: quoted for bash, and that once more for `eval`."""
    spelled = "".join(chr(byte) if byte < 128 else f"\\x{byte:02x}" for byte in path.encode())
    quoted = spelled.replace("'", "\\'")
    return f'eval $\'\\\'gitlab-runner\\\' "cache-extractor" "--file" "../../../cache/{quoted}"{more}\\n\''.encode()


@pytest.mark.anyio
async def test_a_cache_comes_back_in_another_sandbox(store: CacheStore, session: Session, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    file = first / PATH
    file.parent.mkdir(parents=True)
    file.write_bytes(b"packed")
    os.utime(file, (1_600_000_000, 1_600_000_000))
    put(store, b"of another branch", "group/project/other/cache.zip")
    (first / "planted.zip").write_bytes(b"under another key, by the job's script")

    assert await Cache(store, OURS, str(first)).take_out(session, script(PATH)) == [f"Kept the cache {PATH} (6 bytes)."]
    assert await Cache(store, OURS, str(first)).take_out(session, script(PATH)) == []
    told = await Cache(store, OURS, str(second)).bring_in(session, script(PATH))

    assert told == [f"Brought in the cache {PATH} (6 bytes)."]
    assert [path.relative_to(second) for path in second.rglob("*") if path.is_file()] == [Path(PATH)]
    assert ((second / PATH).read_bytes(), (second / PATH).stat().st_mtime) == (b"packed", 1_600_000_000)
    assert await Cache(store, OURS, str(second)).take_out(session, script(PATH)) == []
    assert await Cache(store, THEIRS, str(tmp_path / "third")).bring_in(session, script(PATH)) == []


@pytest.mark.anyio
async def test_what_is_untrusted_has_no_cache(store: CacheStore, session: Session, tmp_path: Path) -> None:
    (tmp_path / "cache.zip").write_bytes(b"poison")
    cache = Cache(store, UNTRUSTED, str(tmp_path))
    assert await cache.take_out(session, script("cache.zip")) == []
    assert await cache.bring_in(session, script("cache.zip")) == ["This job is not trusted with a cache: none is used."]
    assert store.entries(UNTRUSTED) == []


@pytest.mark.anyio
async def test_one_that_cannot_be_kept_or_brought_in_is_told(
    store: CacheStore, session: Session, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "large").write_bytes(b"x" * LIMIT)
    (folder / "small").write_bytes(b"x")
    large, small = sorted(await Cache(store, OURS, str(folder)).take_out(session, b"large small"), reverse=True)
    assert large.startswith("The cache large could not be kept: it has")
    assert small.startswith("Kept")
    [line] = await Cache(store, OURS, str(folder / "small")).bring_in(session, b"small")
    assert "could not be brought in" in line


@pytest.mark.parametrize("path", [PATH, "g/p/it's a key-protected/cache.zip", "g/p/é-protected/cache.zip"])
def test_a_script_names_its_cache_however_quoted(path: str) -> None:
    assert names(script(path), path)
    assert not names(script("g/p/another/cache.zip"), path)


@pytest.mark.anyio
@pytest.mark.parametrize("store_at", ["--url https://s3.example/deps?signed=1", "--gocloud-url azblob://a/b"])
async def test_what_is_in_an_object_store_is_not_kept_here_as_well(
    store: CacheStore, session: Session, tmp_path: Path, store_at: str
) -> None:
    """The trap: gitlab-runner leaves its archive at `--file` all the same, and each was moved over SSH both ways."""
    option, _, address = store_at.partition(" ")
    elsewhere = script("cache.zip", f' "{option}" "{address}"')
    (tmp_path / "cache.zip").write_bytes(b"packed")
    cache = Cache(store, OURS, str(tmp_path))
    assert await cache.take_out(session, elsewhere) == []
    put(store, b"packed", "cache.zip")
    assert await cache.bring_in(session, elsewhere) == []


@pytest.mark.parametrize("key", ["--url", "--urlx", "a --url b"])
def test_a_key_is_no_object_store(key: str) -> None:
    assert not has_object_store(script(f"group/app/{key}-protected/cache.zip"))


@pytest.mark.anyio
async def test_the_helper_is_brought_in(session: Session, tmp_path: Path) -> None:
    source = tmp_path / "gitlab-runner-helper"
    source.write_bytes(b"#!/bin/sh\n")
    assert await bring_in_helper(session, source, str(tmp_path / "bin" / "gitlab-runner")) == []
    assert os.access(tmp_path / "bin" / "gitlab-runner", os.X_OK)
    [line] = await bring_in_helper(session, tmp_path / "none", "/nowhere")
    assert "could not be brought in" in line
