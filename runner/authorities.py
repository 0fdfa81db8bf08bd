"""Whom an HTTP client trusts."""

from __future__ import annotations


def needed(*urls: str) -> bool:
    """Whether a client of these addresses needs the certificate authorities that this host knows: httpx's `verify`.

    httpx reads them all for each client, 65 ms of processor time and often more than the rest of a command. Plain http
    has nobody to verify. An odd spelling of it errs on the safe side.
    """
    return not all(url.startswith("http:") for url in urls)
