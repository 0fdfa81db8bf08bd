"""Logs in to a sandbox of the keeper: to a ready one for one command, if there is one now, or to a held one."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sandbox import ssh
from sandbox.adhoc.session import Login
from sandbox.config import DEFAULT_PROFILE
from sandbox.errors import KeeperError
from sandbox.keeper import protocol
from sandbox.keeper.client import KeeperClient

LOGIN_DEADLINE = 10.0
_RENEWALS = 3
"""Renewals in each term of the lease."""


@contextmanager
def borrowed(keeper: KeeperClient) -> Iterator[Login]:
    """Borrow a ready sandbox of the keeper's default profile. At the end, give it back to be cleaned or recreated.

    Raises `KeeperError`, also when no sandbox is ready, or `SandboxFault`.
    """
    token = secrets.token_urlsafe(24)
    ssh.load()
    grant, connection = keeper.lend(
        protocol.Lend(
            attempt=f"sandbox-run-{secrets.token_hex(6)}",
            token=token,
            profile=DEFAULT_PROFILE,
            trust_key=f"user {os.getuid()}",
            wait=0.0,
            patience=0.0,
        )
    )
    over = threading.Event()
    try:
        transport = ssh.login(connection, grant.host_key, grant.client_key, time.monotonic() + LOGIN_DEADLINE)
        threading.Thread(target=_renew, args=(keeper, token, grant.term / _RENEWALS, over), daemon=True).start()
        try:
            yield Login(grant.sandbox, transport)
        finally:
            over.set()
            transport.close()
    finally:
        with suppress(KeeperError):  # the lease expires by itself
            keeper.give_back(token, used=True)


def enter(keeper: KeeperClient, name: str) -> ssh.Transport:
    """Log in to a held sandbox. Raises `KeeperError` or `SandboxFault`."""
    ssh.load()
    entrance, connection = keeper.enter(name)
    return ssh.login(connection, entrance.host_key, entrance.client_key, time.monotonic() + LOGIN_DEADLINE)


def _renew(keeper: KeeperClient, token: str, interval: float, over: threading.Event) -> None:
    while not over.wait(interval):
        with suppress(KeeperError):  # a restarted keeper gives each lease a new term
            keeper.renew(token)
