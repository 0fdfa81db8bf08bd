"""Which file systems a keeper watches, by its configuration."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandbox.keeper import storage
from tests.sandbox.keeper.conftest import World


@pytest.fixture
def sysbox_data(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Sysbox's data, on a file system of its own."""
    place = tmp_path_factory.mktemp("sysbox")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100g", "tmpfs", str(place)], check=True)
    monkeypatch.setattr(storage, "SYSBOX_DATA", str(place))
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def watches(world: World, *places: Path) -> Callable[[], bool]:
    return lambda: [room.place for room in world.keeper._storage.rooms] == [str(place) for place in places]


def test_sysboxs_own_file_system_is_watched_while_a_profile_wants_sysbox(
    make: Callable[..., World], sysbox_data: Path
) -> None:
    world = make(runtime="sysbox-runc")
    world.keeper._storage.start()
    world.wait_for("both are watched", watches(world, Path("/"), sysbox_data))
    world.follow(runtime="userns-runc")
    world.wait_for("the engine's alone is watched", watches(world, Path("/")))
    world.follow(runtime="sysbox-runc")
    world.wait_for("both are watched again", watches(world, Path("/"), sysbox_data))
    world.stop()
