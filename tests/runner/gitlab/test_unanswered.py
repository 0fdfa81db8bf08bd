"""Hooks whose service cannot read what they ask, is away for good, or may not be asked: the log soon says which."""

from __future__ import annotations

import pytest

from tests.runner.gitlab.conftest import Lab, ended
from tests.runner.gitlab.test_hooks import changed

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("lambda kind, payload: frame(kind, payload + b'\\0more')", "a request that cannot be read. Is it of another"),
        ("lambda kind, payload: frame(b'Z', payload)", "a frame (b'Z') that there is not. Is it of another version"),
        ("lambda kind, payload: frame(b'B', payload)", "out of turn. Is it of another version than the runner?"),
        (
            "lambda kind, payload: frame(kind, payload + bytes(65536))",
            "bytes in one piece, and at most 65536 are taken.",
        ),
    ],
    ids=["other words", "another frame", "another order", "too much"],
)
async def test_a_request_that_cannot_be_read_is_answered(lab: Lab, change: str, said: str) -> None:
    """The trap: a hook that hears nothing asks for five minutes, and then says that the runner does not run.

    The script is larger than what the service reads before it knows, and a hook listens after it has sent all.
    """
    manager = await lab.prepared()
    script = manager.script("#" * 3_000_000)
    hook = changed(f"frame = client.frame; client.frame = {change}", "run", script, "build_script")
    end = await ended(await manager.execute(*hook))
    assert (end.code, said in end.said, end.said.count("runner:")) == (2, True, 1), end.said
