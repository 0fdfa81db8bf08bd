"""Files that a crash leaves whole, and locks."""

import os
import threading
import time
from pathlib import Path

import pytest

from sandbox import durable


@pytest.mark.parametrize("put", [durable.write, durable.replace])
def test_a_file_is_replaced_as_a_whole_and_is_its_owners_only(tmp_path: Path, put: object) -> None:
    assert callable(put)
    path = tmp_path / "file"
    put(path, b"long before")
    reader = path.open("rb")
    put(path, b"now")
    assert (reader.read(), path.read_bytes()) == (b"long before", b"now")
    assert path.stat().st_mode & 0o777 == 0o600
    reader.close()
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    (path / "kept").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        durable.write(path, b"now")
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_can_be_for_others(tmp_path: Path) -> None:
    durable.replace(tmp_path / "script", b"#!/bin/sh\n", 0o755)
    assert (tmp_path / "script").stat().st_mode & 0o777 == 0o755


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    first = durable.lock(tmp_path / "lock")
    assert first is not None
    assert durable.lock(tmp_path / "lock") is None
    threading.Timer(0.2, os.close, (first,)).start()
    second = durable.lock(tmp_path / "lock", 10.0)
    assert second is not None
    os.close(second)


def test_who_waits_for_a_lock_has_it_when_it_is_free(tmp_path: Path) -> None:
    order = []

    def wait() -> None:
        with durable.locked(tmp_path / "lock"):
            order.append("second")

    with durable.locked(tmp_path / "lock"):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
