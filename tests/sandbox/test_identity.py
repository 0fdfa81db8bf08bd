"""Keys of a sandbox: OpenSSH's formats, new each time, and secret."""

import io

import asyncssh
import paramiko
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from sandbox.identity import KeyPair, new_identity


@pytest.fixture(params=["host", "client"])
def pair(request: pytest.FixtureRequest) -> KeyPair:
    pair = getattr(new_identity("sandbox-1"), request.param)
    assert isinstance(pair, KeyPair)
    return pair


def test_cryptography_reads_both_halves(pair: KeyPair) -> None:
    private = load_ssh_private_key(pair.private.encode(), password=None)
    shown = load_ssh_public_key(pair.public.encode())
    message = b"signed"
    shown.verify(private.sign(message), message)  # type: ignore[call-arg]


def test_paramiko_reads_both_halves(pair: KeyPair) -> None:
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(pair.private))
    assert key.get_base64() == pair.public.split()[1]


def test_asyncssh_reads_both_halves(pair: KeyPair) -> None:
    key = asyncssh.import_private_key(pair.private)
    assert key.public_data == asyncssh.import_public_key(pair.public).public_data


def test_the_public_half_is_one_line_that_names_the_sandbox() -> None:
    identity = new_identity("sandbox-7")
    assert identity.host.public.split()[2:] == ["sandbox-7"]
    assert identity.client.public.split()[2:] == ["keeper-of-sandbox-7"]
    assert "\n" not in identity.host.public + identity.client.public


def test_no_key_is_made_twice() -> None:
    first, second = new_identity("sandbox-1"), new_identity("sandbox-1")
    publics = [i.public.split()[1] for i in (first.host, first.client, second.host, second.client)]
    assert len(set(publics)) == 4


def test_the_private_half_is_not_in_a_repr() -> None:
    identity = new_identity("sandbox-1")
    assert "PRIVATE" not in repr(identity)
    assert identity.host.private.splitlines()[1] not in repr(identity)
