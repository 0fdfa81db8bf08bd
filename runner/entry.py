"""The `runner` command's first step: frequent calls skip everything that only a person's command needs.

Frequent calls are the hooks of GitLab's custom executor, for each stage of each job, and a health check's `ping`, four
times a minute for ever. Importing the command line alone would take several times as long as these calls do now.
"""

from __future__ import annotations

import os
import sys

_HOOKS = ("config", "prepare", "run", "cleanup")


def main() -> None:
    """Run the command. Only here, any error of ours becomes one line on stderr and an exit code."""
    match sys.argv[1:]:
        case ["gitlab", name, *_] if name in _HOOKS:
            from runner.gitlab import client  # noqa: PLC0415 - nobody else needs it

            sys.exit(client.main(sys.argv[2:]))
    from sandbox import exits  # noqa: PLC0415 - not for a hook

    with exits.told("runner"):
        _tell_errors()


def _tell_errors() -> None:
    from runner.errors import BadJobError, ConfigError, InputError, RunnerError  # noqa: PLC0415 - as above

    # As in sysexits.h: 64 usage, 66 no input, 78 configuration; 69 for the rest, where something needed is not there.
    codes = ((BadJobError, 64), (InputError, 66), (ConfigError, 78))
    try:
        _run()
    except RunnerError as error:
        print(f"runner: {error}", file=sys.stderr)
        sys.exit(next((code for kind, code in codes if isinstance(error, kind)), 69))


def _asks_compose() -> bool:
    """Return whether to find the service by asking compose, which needs the whole command line."""
    from runner import places  # noqa: PLC0415 - not for a hook

    return not os.environ.get(places.URL_VARIABLE) and places.compose_is_here()


def _run() -> None:
    match sys.argv[1:]:
        case ["ping", *options] if {"--live", "--json"}.issuperset(options) and not _asks_compose():
            from runner import ping, places  # noqa: PLC0415 - nobody else needs it

            url = os.environ.get(places.URL_VARIABLE) or places.DEFAULT_URL
            sys.exit(ping.main(url, live="--live" in options, as_json="--json" in options))
    from runner import lean  # noqa: PLC0415 - a health check does not pay for it

    lean.do_without()
    with lean.loading():
        from runner import cli  # noqa: PLC0415 - after what it does without

    cli.app(sys.argv[1:])()
