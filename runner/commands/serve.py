"""`runner serve`: runs the service."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from runner.commands.options import source_of
from runner.config.load import load, look_at_files, settings
from runner.lean import loading
from runner.logs import Action, Events, configure
from sandbox import open_files
from sandbox.settings.options import given_settings, takes_settings

app = typer.Typer()
_events = Events("runner")


@app.command()
@takes_settings(settings())
def serve(
    configuration: Annotated[
        Path | None,
        typer.Option("--config", help="Configuration file (TOML). Default: /etc/runner/runner.toml, if it is there."),
    ] = None,
    **given: Any,  # noqa: ANN401 - the options of all settings
) -> None:
    """Run as a service: take jobs over HTTP, run each in a sandbox, keep logs and outcomes.

    Settings come from the file, above it the environment, above that options: docs/configuration.md has all of them.

    TERM stops the service: it takes no more jobs, running jobs end first, and waiting jobs stay for the next life on
    the same --state. A second TERM, or QUIT, ends the running jobs. So does `runner stop`, with and without --force.

    USR1 detaches, for a restart or an upgrade: the service exits within seconds and leaves running jobs running and
    waiting ones waiting. Started again with the same --state, it goes on with them. It does so after a crash too.

    HUP reads the settings anew and applies those that are live. A file with a mistake changes nothing.
    """
    with loading():
        from runner import serve as service  # noqa: PLC0415 - `runner run` does not pay for the web framework

    read = partial(load, configuration, options=given_settings(given, settings()))
    loaded = read()
    look_at_files(loaded)
    configure(loaded.config.log.format)
    open_files.raise_limit()
    for remark in loaded.remarks:
        _events.warning(Action.CONFIGURATION_REMARK, remark)
    asyncio.run(service.serve(loaded, read, source_of(loaded.config.sandboxes)))
