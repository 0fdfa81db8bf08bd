"""`sandbox images …`: build the sandbox image, and check images that were built on it."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from sandbox.images.contract import Finding, Standing
from sandbox.profile import Profile

app = typer.Typer(
    name="images", help="Build the sandbox image, and check images that were built on it.", no_args_is_help=True
)

_DEFAULT = str(Profile.model_fields["image"].default)
_RUNTIME = str(Profile.model_fields["runtime"].default)
_MARKS = {Standing.KEPT: "ok", Standing.BROKEN: "BROKEN", Standing.UNSEEN: "unseen"}


def _say(line: str) -> None:
    typer.echo(f"images: {line}", err=True)


@app.command()
def build(
    tag: Annotated[
        list[str] | None, typer.Option(help=f"Name of the image, again for more. [default: {_DEFAULT}]")
    ] = None,
    base_image: Annotated[str | None, typer.Option(help="Any Debian trixie, instead of debian:trixie-slim.")] = None,
    extra_ca: Annotated[list[Path] | None, typer.Option(help="Certificates (PEM) to trust as well.")] = None,
    platform: Annotated[str, typer.Option(help="Such as linux/arm64; several need buildx.")] = "",
    push: Annotated[bool, typer.Option("--push", help="Push it to the registries that the names say.")] = False,
    builder: Annotated[str | None, typer.Option(help="One of `docker buildx ls`.")] = None,
    build_arg: Annotated[list[str] | None, typer.Option(help="NAME=VALUE (docs/sandbox-image.md).")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Without caches, on the newest base image.")] = False,
) -> None:
    """Build the sandbox image with `docker`, from this installation's own files.

    Proxies, BASE_IMAGE, DEBIAN_MIRROR and DEBIAN_SECURITY_MIRROR are taken from the environment.
    """
    from sandbox.images import build as building

    tags = tag or [_DEFAULT]
    _say(f"building {', '.join(tags)} (a few minutes the first time)")
    building.build(
        building.Build(
            tags=tags,
            platforms=tuple(filter(None, platform.split(","))),
            push=push,
            builder=builder,
            base_image=base_image,
            arguments=tuple(build_arg or ()),
            authorities=tuple(extra_ca or ()),
            fresh=fresh,
        )
    )
    typer.echo("\n".join(tags))


@app.command()
def check(
    image: Annotated[str, typer.Argument(help="The image, as `docker images` names it.")] = _DEFAULT,
    runtime: Annotated[str, typer.Option(envvar="SANDBOX_RUNTIME", help="The sandboxes' runtime.")] = _RUNTIME,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Check that an image keeps the contract of docs/own-images.md: its settings, and one throw-away sandbox.

    Exit code 1 when a point is broken. The sandbox is removed again.
    """
    from sandbox.engine import Engine
    from sandbox.images.check import check as look

    findings = look(Engine(), image, runtime, _say)
    fit = all(finding.standing is Standing.KEPT for finding in findings)
    if as_json:
        points = [dataclasses.asdict(finding) for finding in findings]
        typer.echo(json.dumps({"image": image, "fit": fit, "points": points}, indent=2))
    else:
        for finding in findings:
            _show(finding)
        typer.echo(f"{image} {'keeps' if fit else 'does not keep'} the contract.")
    if not fit:
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    typer.echo(f"{_MARKS[finding.standing]:6} {finding.point:14} {finding.what}")
    if finding.standing is Standing.BROKEN:
        typer.echo(f"{'':21} {finding.problem}")
        typer.echo(f"{'':21} Fix: {finding.fix}")
