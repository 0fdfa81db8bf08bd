"""How many files a service of ours may have open: each job takes some, and so does everybody who follows a log."""

import resource


def raise_limit() -> None:
    """Take what the host grants. Docker 29 leaves a service 1024 of them (docker/docs#23730), for the sake of programs
    that call `select` or close every number there is; ours do neither."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
