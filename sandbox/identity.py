"""The keys of one sandbox. Each creation gets new ones before its start; none is ever used twice."""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An ed25519 key in OpenSSH's formats."""

    public: str
    """One line: type, base64, comment."""
    private: str = field(repr=False)
    """PEM. Secret; kept out of `repr`, so that no log line contains it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a sandbox is (`host`) and who may log in to it (`client`)."""

    host: KeyPair
    client: KeyPair


def new_identity(name: str) -> Identity:
    """Make the keys for the sandbox `name`; the name becomes the keys' comment."""
    return Identity(host=_new_key(name), client=_new_key(f"keeper-of-{name}"))


def _new_key(comment: str) -> KeyPair:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    return KeyPair(public=f"{public} {comment}", private=private)
