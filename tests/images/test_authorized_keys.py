"""Logins with every form in which people write authorized keys."""

import re

import pytest

from sandbox.identity import KeyPair, new_identity
from tests.images.started import Start

RUBBISH = "ssh-ed25519 nonsense"


@pytest.fixture(scope="module")
def second_key() -> KeyPair:
    return new_identity("second").client


@pytest.mark.parametrize("source", ["environment", "file"])
def test_good_lines_count_and_bad_ones_are_named(
    start: Start, client_key: KeyPair, second_key: KeyPair, source: str
) -> None:
    """Options, comments, several keys, CRLF, rubbish, and no newline at the end."""
    lines = [
        "# ours",
        RUBBISH,
        "",
        f'  restrict,pty,environment="A=b c" {client_key.public} somebody who has "spaces" in a comment\r',
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "\x00\x1b[2J" if source == "file" else "\x1b[2J",
        second_key.public.rsplit(" ", 1)[0],
    ]
    text = "\n".join(lines)
    if source == "environment":
        sandbox = start(environment={"AUTHORIZED_KEYS": text})
    else:
        sandbox = start(environment={}, given={"authorized_keys": text.encode()})
    assert sandbox.sh("echo first").strip() == "first"
    sandbox.private_key = second_key.private
    assert sandbox.sh("echo second").strip() == "second"
    named = re.findall(r"line (\d+) of .*authorized_keys is not a public key", sandbox.log(), re.IGNORECASE)
    assert named == ["2", "5", "6"]
    assert "\x1b" not in sandbox.log()


def test_keys_of_both_sources_count(start: Start, client_key: KeyPair, second_key: KeyPair) -> None:
    sandbox = start(
        environment={"AUTHORIZED_KEYS": client_key.public}, given={"authorized_keys": second_key.public.encode()}
    )
    assert sandbox.sh("echo first").strip() == "first"
    sandbox.private_key = second_key.private
    assert sandbox.sh("echo second").strip() == "second"
