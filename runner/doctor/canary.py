"""A job that does nothing, submitted to the running service, to test the whole way."""

from __future__ import annotations

import secrets
import time
from typing import Final

from runner.client import ENDED, Client
from runner.doctor.facts import Canary
from runner.errors import ClientError

DEADLINE: Final = 120.0
"""Seconds for the job to end, including the wait for a slot and a sandbox."""
_PAUSE: Final = 0.2
_TRUST_KEY: Final = "doctor"
"""A trust key of its own: other jobs do not inherit what it leaves, nor does it inherit from them."""


def try_one(service: Client) -> Canary:
    """Submit the job and wait for its end; cancel it if it takes too long. Raises ClientError."""
    began = time.monotonic()
    request = {"script": "true\n", "trust_key": _TRUST_KEY, "timeout": DEADLINE, "queue_timeout": DEADLINE}
    job = service.submit(request, secrets.token_hex(16))["id"]
    while time.monotonic() < began + DEADLINE:
        view = service.show(job)
        if view["state"] in ENDED:
            outcome = view["outcome"]
            return Canary(outcome["outcome"] == "succeeded", outcome["message"], time.monotonic() - began)
        time.sleep(_PAUSE)
    service.cancel(job)
    raise ClientError(f"The job {job} was {view['state']} for {DEADLINE:.0f} s, and is cancelled.")
