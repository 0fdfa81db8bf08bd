"""The watcher's decisions when sandboxes take space on several file systems: sysbox keeps its data where it likes."""

import pytest

from sandbox.disk.watch import RELIEF, Amount, Condemn, Evict, Room, Usage
from tests.sandbox.test_disk_watch import GIB, IDLE, Watching, of_kind, room


def other(seconds: float) -> Room:
    """A second file system: sysbox's."""
    return room(seconds, place="/other", device=2)


def used_on(**gib: float) -> Usage:
    """By the numbers of devices, each after a letter."""
    parts = {int(device[1:]): Amount(int(size * GIB), 100) for device, size in gib.items()}
    return Usage(Amount(sum(part.bytes for part in parts.values()), 100 * len(parts)), True, parts)


@pytest.mark.parametrize(
    ("rooms", "guilty"),
    [
        ((room(60), other(0.5)), "took it there"),
        ((room(0.5), other(60)), "took more elsewhere"),
    ],
)
def test_the_one_that_is_condemned_took_it_where_it_is_short(rooms: tuple[Room, Room], guilty: str) -> None:
    """The trap: that another one took more on a disk that has room gives nothing back where there is none."""
    host = Watching(**{"took it there": used_on(d1=1, d2=1), "took more elsewhere": used_on(d1=1, d2=1)})
    host.settle(room(60), other(60))
    host.usage = {"took it there": used_on(d1=1, d2=6), "took more elsewhere": used_on(d1=15, d2=2)}
    actions = host.look(*rooms) + host.look(*rooms, after=0.1)
    [condemned] = [action for action in actions if isinstance(action, Condemn)]
    assert condemned.name == guilty
    grown = {"took it there": "5.0 GiB there since it was last measured, 6.0", "took more elsewhere": "14.0 GiB there"}
    assert grown[guilty] in condemned.sentence


def test_what_is_on_no_file_system_that_is_watched_counts_for_the_first() -> None:
    """The trap: btrfs has other numbers for its subvolumes, and overlayfs for files that were deleted."""
    host = Watching(subvolume=used_on(d7=1), calm=used_on(d1=1, d2=1))
    host.settle(room(60), other(60))
    host.usage = {"subvolume": used_on(d7=6), "calm": used_on(d1=3, d2=9)}
    short = room(0.5), other(60)
    assert of_kind(host.look(*short) + host.look(*short, after=0.1), Condemn) == ["subvolume"]


def test_caches_go_only_where_the_disk_is_short() -> None:
    host = Watching(here=used_on(d1=9), there=used_on(d1=1, d2=1))
    host.sandboxes = dict.fromkeys(host.usage, IDLE)
    host.settle(room(60), other(60))
    actions = [action for _ in range(60) for action in host.look(room(60), other(RELIEF - 0.5))]
    assert [action.name for action in actions if isinstance(action, Evict)] == ["there"]
    assert host.sandboxes == {"here": IDLE}
