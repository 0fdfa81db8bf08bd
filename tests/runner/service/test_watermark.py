"""The consequences of the free space on a disk for jobs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runner.service.watermark import Disk, Marks, Room, judge

ORDER = [Disk.WELL, Disk.LOW, Disk.FULL]
disks = st.sampled_from(ORDER)
rooms = st.integers(1, 1 << 45).flatmap(lambda size: st.builds(Room, st.integers(0, size), st.just(size)))
MIB = 1024**2


@given(disks, rooms)
def test_a_look_again_says_the_same(before: Disk, room: Room) -> None:
    """The trap: a disk at its mark would start and stop with every look."""
    now = judge(before, room, Marks())
    assert judge(now, room, Marks()) is now


@given(disks, rooms, st.integers(0, 1 << 45))
def test_more_room_is_never_worse_and_a_worse_past_is_never_better(before: Disk, room: Room, more: int) -> None:
    with_more = Room(min(room.free + more, room.size), room.size)
    assert ORDER.index(judge(before, with_more, Marks())) <= ORDER.index(judge(before, room, Marks()))
    assert ORDER.index(judge(Disk.WELL, room, Marks())) <= ORDER.index(judge(before, room, Marks()))


@given(disks, st.integers(1, 1 << 45))
def test_an_empty_disk_is_well_and_one_without_room_is_full(before: Disk, size: int) -> None:
    assert judge(before, Room(size, size), Marks()) is Disk.WELL
    assert judge(before, Room(0, size), Marks()) is Disk.FULL


def test_a_disk_that_runs_full_and_is_cleared() -> None:
    seen, disk = [], Disk.WELL
    for free in (5000, 2000, 250, 300, 500, 2500, 3500):
        disk = judge(disk, Room(free * MIB, 100_000 * MIB), Marks())
        seen.append(disk.value)
    assert seen == ["well", "low", "full", "full", "low", "low", "well"]
    assert judge(Disk.WELL, Room(20 * MIB, 100 * MIB), Marks()) is Disk.WELL  # a small disk has small marks
