"""Tokens of the service's clients: create, list, revoke."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from runner.commands.jobs import AsJson, client, tell_all, when

app = typer.Typer(name="token", no_args_is_help=True, help="Tokens of the service's clients.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose it is; shown in the service's log.")],
    scope: Annotated[list[str] | None, typer.Option(help="read, submit, admin, metrics; may be repeated.")] = None,
    days: Annotated[float | None, typer.Option(min=0.001, max=3650, help="For how long; until revoked if not.")] = None,
    as_json: AsJson = False,
) -> None:
    """Create a token, and print it: nobody can read it again. Without --scope it may read and submit."""
    with client() as service:
        token = service.create_token(name, scope or ["read", "submit"], days)
    print(json.dumps(token) if as_json else token["token"])


@app.command("ls")
def list_tokens(as_json: AsJson = False) -> None:
    """List the tokens."""
    with client() as service:
        tokens = service.tokens()
    tell_all(tokens, ["TOKEN", "NAME", "SCOPES", "CREATED", "EXPIRES"], _row, as_json=as_json)


def _row(token: dict[str, Any]) -> list[str]:
    return [token["id"], token["name"], " ".join(token["scopes"]), when(token["created"]), _end(token["expires"])]


@app.command()
def revoke(token: Annotated[str, typer.Argument(help="The token's id.")], as_json: AsJson = False) -> None:
    """Revoke a token: it is worthless from now on."""
    with client() as service:
        service.revoke_token(token)
    if as_json:
        print(json.dumps({"id": token, "revoked": True}))


def _end(expires: float | None) -> str:
    return "never" if expires is None else when(expires)
