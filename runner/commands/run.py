"""`runner run`: a script, here and now."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from runner import outcome as outcomes
from runner.commands.options import source_of
from runner.config.load import load, settings
from runner.errors import BadJobError, InputError
from runner.execution.options import Settings
from runner.job import DEFAULT_PROFILE, MAX_SCRIPT, Job
from sandbox.settings.options import given_settings, takes_settings

app = typer.Typer()

_SECTION: Final = "sandboxes"
_SETTINGS: Final = settings(_SECTION)
_AFTER: Final = "(arguments for the script come after --, as in: runner run SCRIPT -- ARGS)"
_Misunderstood: Final[Any] = typer.BadParameter.__bases__[0]
"""The base class of the parser's errors: Typer has its own copy of Click, where only this error has a public name."""


class _Run(TyperCommand):
    """Takes options before and after the script, and passes everything after the first `--` to the script.

    Without the `--`, nobody could tell whether `--json` behind a script is its option or ours.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - as the class above has no public name
        end = args.index("--") if "--" in args else len(args)
        try:
            left = super().parse_args(ctx, args[:end])
        except _Misunderstood as error:
            if isinstance(error, typer.BadParameter):  # a wrong value for an option that exists
                raise
            ctx.fail(f"{error.format_message()} {_AFTER}")
        if more := ctx.params.get("args"):
            ctx.fail(f"Only one script can be run, and there is more before any --: {' '.join(more)} {_AFTER}")
        ctx.params["args"] = args[end + 1 :]
        return left


@app.command(cls=_Run)
@takes_settings(_SETTINGS)
def run(
    script: Annotated[str, typer.Argument(help="The script's file; - for standard input.")],
    args: Annotated[list[str] | None, typer.Argument(metavar="-- ARGS", help="The script's arguments.")] = None,
    env: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, or NAME to pass our own value on (better for secrets).")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds the script may take.")] = None,
    profile: Annotated[
        str, typer.Option(help="Profile of the sandbox, as the keeper's configuration names it.")
    ] = DEFAULT_PROFILE,
    trust_key: Annotated[
        str, typer.Option(help="Who may inherit what the script leaves; `untrusted` always gets a fresh sandbox.")
    ] = "default",
    wait: Annotated[float, typer.Option(min=0, max=3600, help="Seconds to wait for a free sandbox.")] = 600.0,
    as_json: Annotated[bool, typer.Option("--json", help="Outcome on stdout as JSON; the log goes to stderr.")] = False,
    **given: Any,  # noqa: ANN401 - the options of what names sandboxes
) -> None:
    """Run a script in a sandbox, its log live, and exit with its exit code.

    Other exit codes: 124 timed out, 130 cancelled, 75 the sandbox was lost, 69 nothing could be started, 64 and 66 bad
    input, 128+N ended by signal N. A script can exit with these numbers too; --json tells them apart.
    """
    from runner.run import run_last  # noqa: PLC0415 - what only talks to the service does not pay for SSH

    job = Job(
        script=_read_script(script),
        args=tuple(args or ()),
        environment=_environment(env or []),
        profile=profile,
        trust_key=trust_key,
        timeout=timeout,
    )
    loaded = load(None, options=given_settings(given, _SETTINGS), only=_SECTION)
    source = source_of(loaded.config.sandboxes)
    adapted = source.adapt(Settings(lend_wait=wait, source_deadline=0))
    outcome = asyncio.run(run_last(source.leases, job, adapted, as_json=as_json))
    raise typer.Exit(outcomes.exit_code(outcome))


def _read_script(name: str) -> bytes:
    try:
        if name == "-":
            return sys.stdin.buffer.read(MAX_SCRIPT + 1)
        with Path(name).open("rb") as file:
            return file.read(MAX_SCRIPT + 1)
    except OSError as error:
        raise InputError(f"The script {name} cannot be read: {error.strerror}.") from error


def _environment(wanted: list[str]) -> dict[str, str]:
    environment = {}
    for one in wanted:
        name, given, value = one.partition("=")
        if not given and name not in os.environ:
            raise BadJobError(f"--env {name}: there is no variable of that name here to pass on. Give {name}=VALUE.")
        environment[name] = value if given else os.environ[name]
    return environment
