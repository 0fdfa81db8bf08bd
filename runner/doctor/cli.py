"""`runner doctor`: options in, the checks' results out."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.config.load import load, settings
from sandbox import report
from sandbox.settings.options import given_settings, takes_settings

app = typer.Typer()


@app.command()
@takes_settings(settings())
def doctor(
    configuration: Annotated[
        Path | None,
        typer.Option("--config", help="The service's file. Default: /etc/runner/runner.toml, if it is there."),
    ] = None,
    keeper_config: Annotated[Path | None, typer.Option(help="The keeper's file, for the checks of this host.")] = None,
    canary: Annotated[bool, typer.Option("--canary", help="Also have the service run a job.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
    **given: Any,  # noqa: ANN401 - the options of all settings
) -> None:
    """Say whether the service is fit for jobs: what was seen, and what to do about it. Changes nothing.

    Exits with 1 when a check failed. Run it as the service's user, with the options that `runner serve` has. Where the
    Docker socket is, it also makes the checks of `sandbox doctor`. Each has an entry in docs/runner-doctor.md.
    """
    from runner.doctor import checks, gather  # noqa: PLC0415 - other commands do not pay for it

    read = partial(load, configuration, options=given_settings(given, settings()))
    results = list(checks.run(gather.gather(read, keeper_config, canary=canary)))
    if as_json:
        print(json.dumps({"checks": [found.document for found in results]}, indent=2))
    else:
        print("\n".join(report.lines(results)))
    if report.failed(results):
        raise typer.Exit(1)
