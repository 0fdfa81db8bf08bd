"""Fixtures for pytest, there as soon as this package is installed.

`sandbox` is a new sandbox for one test, as `tmp_path` is a new folder. `sandbox_factory` makes those that several tests
share, until the end of the session. `sandbox_options` says what kind they are; a conftest may say it otherwise.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sandbox import Sandbox

    SandboxFactory = Callable[..., Sandbox]


@pytest.fixture(scope="session")
def sandbox_options() -> dict[str, Any]:
    """What `Sandbox` is called with, such as `{"memory": "2GiB"}`; override it in a conftest."""
    return {}


@pytest.fixture(scope="session")
def sandbox_factory(sandbox_options: dict[str, Any]) -> Iterator["SandboxFactory"]:
    """Makes sandboxes that live until the end of the session, with `sandbox_options` and what it is called with."""
    from sandbox import Sandbox  # noqa: PLC0415 - pytest loads this plugin in every run, used or not

    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Sandbox(**{**sandbox_options, **options}))


@pytest.fixture
def sandbox(sandbox_options: dict[str, Any]) -> Iterator["Sandbox"]:
    """A new sandbox, gone after the test."""
    from sandbox import Sandbox  # noqa: PLC0415 - as above

    with Sandbox(**sandbox_options) as made:
        yield made
