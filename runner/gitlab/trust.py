"""Decides which jobs may use a GitLab job's sandbox after it. Pure."""

from __future__ import annotations

import hashlib
from typing import Final

from runner.gitlab.response import GitLabJob
from runner.job import UNTRUSTED

_DIGITS: Final = 8
"""Digits of the digest that distinguishes the GitLab instances of one runner."""


def trust_key(job: GitLabJob) -> str:
    """Return the trust key: the GitLab instance, the project there, and whether the ref is protected.

    Code from outside of the project, and a job whose project is unknown, are `untrusted`.
    """
    if job.fork or not job.project:
        return UNTRUSTED
    instance = hashlib.sha256(job.instance.encode(errors="surrogatepass")).hexdigest()[:_DIGITS]
    return f"gitlab-{instance}-{job.project}-{'protected' if job.protected else 'unprotected'}"


def remark(job: GitLabJob) -> str | None:
    """Return a sentence when less trust than usual was assumed, None otherwise."""
    if job.fork:
        return "This job is for a fork's merge request: it gets a fresh sandbox that nobody inherits."
    if not job.missing:
        return None
    assumed = "an unprotected ref" if job.project else "a fresh sandbox that nobody inherits"
    return f"GitLab did not send {' and '.join(job.missing)}: {assumed} is assumed."
