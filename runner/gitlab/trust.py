"""Who may inherit what a GitLab job leaves in its sandbox. Pure."""

from __future__ import annotations

from typing import Final

from runner.gitlab.response import GitLabJob

#: Always gets a fresh sandbox, and leaves it to nobody.
UNTRUSTED: Final = "untrusted"


def trust_key(job: GitLabJob) -> str:
    """Return the trust key: the project, and whether the ref is protected.

    Somebody else's code is `untrusted`, and so is a job of which GitLab did not say all of that: the cache and the
    images of unprotected refs are not for it either, as it may be what poisons them.
    """
    if job.fork or job.missing:
        return UNTRUSTED
    return f"gitlab-{job.project}-{'protected' if job.protected else 'unprotected'}"


def remark(job: GitLabJob) -> str | None:
    """Return a sentence when less trust than usual was assumed, None otherwise."""
    if job.fork:
        return "This job is for a fork's merge request: it gets a fresh sandbox that nobody inherits."
    if not job.missing:
        return None
    return f"GitLab did not send {' and '.join(job.missing)}: this job gets a fresh sandbox that nobody inherits."
