"""A disk without a single free byte does not break the keeper: it goes on, and can start again. Needs root."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sandbox.disk.watch import Amount, Usage
from sandbox.disk.watcher import OnDisk, measure
from sandbox.errors import ConfigError
from sandbox.keeper.home import Home
from sandbox.keeper.records import Records
from sandbox.pool import Sandbox
from sandbox.state import State


class Disk:
    """A small file system of its own."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._filling = place / "filling"

    def fill(self) -> None:
        with suppress(OSError), self._filling.open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)

    def free(self) -> None:
        self._filling.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], check=True)
    yield Disk(place)
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_keeper_starts_on_a_full_disk_and_makes_sandboxes_again_when_there_is_room(disk: Disk) -> None:
    folder = disk.place / "home"
    home = Home(folder)
    installation, generation = home.installation, home.next_generation()
    home.release()
    disk.fill()
    home = Home(folder)
    assert home.installation == installation
    with pytest.raises(ConfigError, match="No space left on device"):
        home.next_generation()
    disk.free()
    assert home.next_generation() > generation
    home.release()
    assert Home(folder).next_generation() > generation + 1


def test_a_record_that_cannot_be_written_costs_neither_the_job_nor_the_old_record(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    records = Records(disk.place / "records")
    sandbox = Sandbox("sandbox-1", 1, "default", State.READY, 0.0)
    records.keep(sandbox)
    path = disk.place / "records" / "sandbox-1.course.json"
    before = path.read_bytes()
    disk.fill()
    records.keep(Sandbox("sandbox-1", 1, "default", State.LEASED, 0.0, trust_key="team"))
    assert path.read_bytes() == before
    assert "cannot be written: [Errno 28] No space left on device" in caplog.text


def test_a_full_disk_can_be_measured(disk: Disk) -> None:
    disk.fill()
    usage = measure(OnDisk(True, 0, "no-such-container", (str(disk.place),)))
    assert usage == Usage(Amount(2**20, 2), True, {disk.place.stat().st_dev: Amount(2**20, 2)})
