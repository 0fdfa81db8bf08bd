"""A job that does nothing, given to the running service, to see that the whole way works."""

from __future__ import annotations

import secrets
import time
from typing import Final

from runner.client import ENDED, Client
from runner.doctor.facts import Canary
from runner.errors import ClientError

DEADLINE: Final = 120.0
"""Seconds for the job to come to its end, the wait for a slot and a sandbox included."""
_PAUSE: Final = 0.2
_TRUST_KEY: Final = "doctor"
"""One of its own: what it leaves is nobody else's to inherit, nor the other way round."""


def try_one(service: Client) -> Canary:
    """Submit it and wait. One that does not end in time is cancelled. Raises ClientError."""
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
