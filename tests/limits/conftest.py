"""A keeper whose sandboxes are small, so that every limit is near."""

from collections.abc import Callable

import pytest

from tests.e2e.conftest import Keeper, new_keeper
from tests.waiting import until

__all__ = ["new_keeper"]

MEMORY, PIDS, NOFILE = 512 * 1024**2, 300, 4096
CPUS = 0.6
CONFIG = f"""
[profiles.default]
warm = 2
cpus = {CPUS}
cpuset = "0"
memory = {MEMORY}
pids = {PIDS}
nofile = {NOFILE}
"""


@pytest.fixture(scope="package")
def small_keeper(new_keeper: Callable[..., Keeper]) -> Keeper:
    keeper = new_keeper(config=CONFIG)
    keeper.start()
    return keeper


@pytest.fixture
def small(small_keeper: Keeper) -> Keeper:
    """A keeper with two small sandboxes, both ready."""
    small_keeper.settle()
    return small_keeper


def lives_on(keeper: Keeper, names: set[str]) -> None:
    """Wait until these sandboxes are ready again."""
    until("they are ready", lambda: names <= {sandbox.name for sandbox in keeper.ready()})
