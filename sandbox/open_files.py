"""The limit on a service's open files: each job takes some, and so does everybody who follows a log."""

import resource


def raise_limit() -> None:
    """Raise the limit to what the host grants.

    Docker 29 gives a service 1024 (docker/docs#23730), for programs that call `select` or close every number; ours do
    neither.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
