"""Which certificates an HTTP client trusts."""

from __future__ import annotations


def needed(*urls: str) -> bool:
    """Return httpx's `verify`: whether a client of these addresses needs the host's certificate authorities.

    httpx reads them all for each client, which takes 65 ms of processor time and often more than the rest of a command.
    With plain http there is nothing to verify. Any odd spelling of `http` counts as https.
    """
    return not all(url.startswith("http:") for url in urls)
