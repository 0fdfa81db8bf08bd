"""`sandbox doctor`: options in, the checks' results out.

Errors are `SandboxError`s and pass through, to become a line and an exit code in `sandbox.entry`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sandbox import report
from sandbox.config import DEFAULT_PROFILE, load
from sandbox.errors import ConfigError

app = typer.Typer()


@app.command()
def doctor(
    configuration: Annotated[
        Path | None, typer.Option("--config", help="The keeper's configuration file (TOML); without it, its defaults.")
    ] = None,
    canary: Annotated[
        bool, typer.Option("--canary", help="Also make a throw-away sandbox, use it and remove it.")
    ] = False,
    profile: Annotated[str, typer.Option(help="The profile of that sandbox.")] = DEFAULT_PROFILE,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say whether this host is fit for sandboxes: what was seen, and what to do about it. Changes nothing.

    Exits with 1 when a check failed. Run it where the keeper runs, as root: it looks at the engine, the kernel and the
    firewall. Each check has an entry in docs/doctor.md.
    """
    from sandbox.doctor import canary as throw_away
    from sandbox.doctor import checks, gather
    from sandbox.engine import Engine

    settings = load(configuration)
    if canary and profile not in settings.profiles:
        raise ConfigError(f"There is no profile {profile}; the configuration has: {', '.join(settings.profiles)}.")
    engine = Engine()
    tried = throw_away.try_one(settings, profile, engine) if canary else throw_away.NOT_ASKED
    facts = gather.gather(gather.wanted(settings), engine, tried)
    results = list(checks.run(facts))
    if as_json:
        print(json.dumps({"checks": [found.document for found in results]}, indent=2))
    else:
        print("\n".join(report.lines(results)))
    if report.failed(results):
        raise typer.Exit(1)
