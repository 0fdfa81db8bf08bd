"""What tests of logins to a sandbox share."""

from collections.abc import Iterator

import pytest

from sandbox.identity import Identity, new_identity
from tests.sandbox.liars import Standins


@pytest.fixture(scope="module")
def identity() -> Identity:
    return new_identity("sandbox-1")


@pytest.fixture
def standins() -> Iterator[Standins]:
    made = Standins()
    yield made
    made.end()
