"""Every error of the SSH library has a sentence of its own."""

from __future__ import annotations

import asyncssh
import pytest

from runner.execution.session import SENTENCES, describe


def kinds(root: type[Exception]) -> list[type[Exception]]:
    """Return a class and all that descend from it."""
    return [root, *(found for kind in root.__subclasses__() for found in kinds(kind))]


EXEMPT = asyncssh.SFTPError  # one sentence for all of them: nothing here transfers files


@pytest.mark.parametrize("kind", kinds(asyncssh.Error), ids=lambda kind: kind.__name__)
def test_every_error_is_mapped(kind: type[Exception]) -> None:
    """Fails when the library gains an error that nobody thought about."""
    assert kind in SENTENCES or issubclass(kind, EXEMPT)


def test_sentences_are_sentences() -> None:
    for kind, text in SENTENCES.items():
        assert text[0].isupper(), kind
        assert not text.endswith("."), kind


def test_an_error_is_told_in_one_safe_line() -> None:
    text = describe(asyncssh.ConnectionLost("evil\x1b[2J\nsecond line"))
    assert text == "The connection to the sandbox was lost (evil\N{REPLACEMENT CHARACTER}[2J second line)."
    assert describe(ConnectionResetError()) == "The sandbox reset the connection."
    assert describe(KeyError("x")).startswith("The SSH session failed")
