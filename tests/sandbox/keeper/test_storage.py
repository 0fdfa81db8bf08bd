"""The file systems that a keeper watches, by its configuration."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from sandbox.disk.watcher import DiskWatcher
from sandbox.errors import Fault, KeeperRefused, SandboxFault
from sandbox.keeper import protocol, storage
from sandbox.state import State
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


@pytest.fixture
def standing_still(world: World) -> World:
    """A keeper whose sandboxes all stand still until the disk has room again, which it has not in time."""
    frozen = Mock(DiskWatcher, refusal=None, rooms=[])
    frozen.wait_while_frozen.side_effect = SandboxFault(Fault.HOST_DISK, "It stood still.")
    world.keeper._storage._watcher = frozen
    return world


def test_what_stands_still_for_too_long_is_not_proven_but_replaced(standing_still: World) -> None:
    """The trap: nobody looked how the wait had ended, and what came next let it go on beside a full disk."""
    world = standing_still
    grant = world.lend()
    world.give_back(grant, used=False)
    assert world.wait_for_condemned(Fault.HOST_DISK) == grant.sandbox
    assert world.host.calls.count("prove after job") == 0
    world.wait_for("the next one", lambda: world.states() == [State.READY])


def test_a_job_that_stands_still_for_too_long_is_ended_with_its_sandbox(standing_still: World) -> None:
    grant = standing_still.lend()
    with pytest.raises(KeeperRefused, match="It stood still"):
        standing_still.keeper.verbs.kill(protocol.Kill(token=grant.token))
    assert standing_still.wait_for_condemned(Fault.HOST_DISK) == grant.sandbox
