"""The `runner` command's first step: hooks of GitLab's custom executor skip everything that a person's command needs.

Importing the command line alone would cost each stage of each job ten times what it costs now.
"""

from __future__ import annotations

import sys

_HOOKS = ("config", "prepare", "run", "cleanup")


def main() -> None:
    """Entry point."""
    match sys.argv[1:3]:
        case ["gitlab", name] if name in _HOOKS:
            from runner.gitlab import client  # noqa: PLC0415 - nobody else needs it

            sys.exit(client.main(sys.argv[2:]))
    from runner import lean  # noqa: PLC0415 - a hook does not pay for it

    lean.do_without()
    with lean.loading():
        from runner import cli  # noqa: PLC0415 - after what it does without

    cli.main()
