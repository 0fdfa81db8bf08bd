"""Webhooks as defined by Standard Webhooks (https://www.standardwebhooks.com): signed and retried. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

FIRST_WAIT: Final = 5.0
LONGEST_WAIT: Final = 3600.0
"""Seconds to the second try, which double with each further one, and their maximum."""

_PREFIX: Final = "whsec_"


def key_of(secret: str) -> bytes:
    """Return the key that a secret stands for. Raises ValueError, whose message does not quote it."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_PREFIX) or not 24 <= len(key) <= 64:
        raise ValueError(
            'must be "whsec_" and the base64 of 24 to 64 random bytes; make one by '
            '`echo "whsec_$(openssl rand -base64 32)"`'
        )
    return key


def headers(key: bytes, message: str, timestamp: int, body: bytes) -> Mapping[str, str]:
    """Return a message's headers: its id (the same for each try), the time of this try, and the signature."""
    signed = f"{message}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "Content-Type": "application/json",
        "User-Agent": "sandbox-runner",
        "webhook-id": message,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }


def wait_after(tries: int) -> float:
    """Return the seconds to the next try, after so many failed ones (at least 1)."""
    return min(FIRST_WAIT * 2.0 ** min(tries - 1, 30), LONGEST_WAIT)


def verdict(status: int) -> str:
    """Return what is wrong with an answer; empty when the message was taken."""
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400:
        return f"it answered {status}, and redirects are not followed: give the address that it leads to"
    return f"it answered {status}"


def shown(receiver: str) -> str:
    """Return the part of an address that may be logged: the rest may be as good as a password."""
    parts = urlsplit(receiver)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"
