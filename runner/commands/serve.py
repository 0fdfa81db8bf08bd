"""`runner serve`: the service, for as long as it is wanted."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from runner.commands.options import (
    DEFAULT_KNOWN_HOSTS,
    DEFAULT_LISTEN,
    Addresses,
    AddressState,
    Folder,
    Identity,
    KeeperSocket,
    KnownHosts,
    source_of,
)
from runner.errors import BadJobError
from runner.execution.options import Settings
from runner.keeper_leases import DEFAULT_KEEPER

if TYPE_CHECKING:
    from runner.gitlab.options import Options as GitLabOptions
    from runner.sources import Source

app = typer.Typer()

DEFAULT_STATE: Final = Path("/var/lib/runner")


@app.command()
def serve(
    listen: Annotated[str, typer.Option(help="HOST:PORT of the API.")] = DEFAULT_LISTEN,
    state: Annotated[Path, typer.Option(help="Folder for the API token, jobs, logs and outcomes.")] = DEFAULT_STATE,
    slots: Annotated[int, typer.Option(min=1, max=1000, help="Jobs at once.")] = 2,
    per_key: Annotated[int | None, typer.Option(min=1, help="Jobs of one trust key at once; as many as slots.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="What jobs may ask for; several times for more.")] = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(envvar="RUNNER_TLS_CERTIFICATE", help="Serve HTTPS with this certificate (PEM).")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(envvar="RUNNER_TLS_KEY", help="Its key (PEM).")] = None,
    max_run_time: Annotated[
        float | None,
        typer.Option(min=1, help="Seconds after which it stops by itself, as by TERM; never if not given."),
    ] = None,
    keeper: KeeperSocket = DEFAULT_KEEPER,
    address: Addresses = None,
    identity: Identity = None,
    known_hosts: KnownHosts = DEFAULT_KNOWN_HOSTS,
    address_state: AddressState = None,
    folder: Folder = None,
    gitlab_socket: Annotated[
        Path | None, typer.Option(envvar="RUNNER_GITLAB_SOCKET", help="Where to listen for hooks of gitlab-runner.")
    ] = None,
    gitlab_grace: Annotated[
        float, typer.Option(min=0, max=300, help="Seconds between TERM and KILL for what a GitLab job's stage started.")
    ] = 5.0,
    gitlab_image: Annotated[
        list[str] | None, typer.Option(help="Pattern of images that GitLab jobs may use (again for more).")
    ] = None,
    gitlab_map_image: Annotated[
        list[str] | None, typer.Option(help="BEGINNING=REPLACEMENT in the names of their images (again for more).")
    ] = None,
    gitlab_pull_policy: Annotated[
        list[str] | None, typer.Option(help="For images of jobs that name none (again for more to try).")
    ] = None,
    gitlab_cache: Annotated[Path | None, typer.Option(help="Folder for caches of GitLab jobs.")] = None,
    gitlab_cache_bytes: Annotated[int, typer.Option(min=0, help="How much is kept there.")] = 20 * 1024**3,
    gitlab_helper: Annotated[
        Path | None, typer.Option(help="A gitlab-runner or gitlab-runner-helper that jobs are given.")
    ] = None,
) -> None:
    """Run as a service: take jobs over HTTP, run each in a sandbox, keep logs and outcomes.

    TERM stops: no more jobs are taken, those that run end first, and those that wait are there for the next life on the
    same --state. A second TERM, or QUIT, ends what runs. So does `runner stop`, with and without --force.

    USR1 detaches, for a restart or an upgrade: the service exits within seconds and leaves running jobs running and
    waiting ones waiting. Started again with the same --state, it goes on with them. So it does after a crash.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stderr)
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise BadJobError(f"--listen {listen} is not HOST:PORT, such as {DEFAULT_LISTEN}.")
    if (tls_certificate is None) != (tls_key is None):
        raise BadJobError("--tls-certificate and --tls-key belong together. Give both, or none for HTTP.")
    if gitlab_socket and address:
        raise BadJobError("GitLab's jobs need a keeper's sandboxes. Leave out --gitlab-socket, or --address.")
    tls = (tls_certificate, tls_key) if tls_certificate and tls_key else None
    gitlab = _gitlab(
        gitlab_socket,
        gitlab_grace,
        (gitlab_image or [], gitlab_map_image or [], gitlab_pull_policy or []),
        (gitlab_cache, gitlab_cache_bytes),
        gitlab_helper,
    )
    serving = _Serving(host, int(port), tls, state, slots, per_key, label or [], max_run_time, gitlab)
    asyncio.run(_serve(serving, source_of(keeper, address, identity, known_hosts, address_state, folder)))


def _gitlab(
    socket: Path | None,
    grace: float,
    images: tuple[list[str], list[str], list[str]],
    cache: tuple[Path | None, int],
    helper: Path | None,
) -> GitLabOptions:
    from runner.gitlab.containers.policy import ImagePolicy  # noqa: PLC0415 - `runner run` does not pay for it
    from runner.gitlab.options import Options  # noqa: PLC0415
    from runner.gitlab.store import CacheStore  # noqa: PLC0415

    folder, limit = cache
    return Options(
        socket=socket,
        settings=Settings(grace=grace),
        images=ImagePolicy.parse(*images),
        caches=CacheStore(folder, limit) if folder else None,
        helper=helper,
    )


@dataclass(frozen=True, slots=True)
class _Serving:
    """How to serve."""

    host: str
    port: int
    #: Certificate and key, for HTTPS.
    tls: tuple[Path, Path] | None
    state: Path
    slots: int
    per_key: int | None
    labels: list[str]
    #: Seconds.
    max_run_time: float | None
    gitlab: GitLabOptions


async def _serve(how: _Serving, source: Source) -> None:
    from runner.api.app import make_app  # noqa: PLC0415 - `runner run` does not pay for the web framework
    from runner.api.server import Tls  # noqa: PLC0415
    from runner.api.server import serve as serve_api  # noqa: PLC0415
    from runner.api.token import Token  # noqa: PLC0415
    from runner.gitlab.beside import beside  # noqa: PLC0415
    from runner.service.home import Home  # noqa: PLC0415
    from runner.service.leases import NotedLeases  # noqa: PLC0415
    from runner.service.records import Records  # noqa: PLC0415
    from runner.service.service import SETTINGS, Service  # noqa: PLC0415
    from runner.service.standby import Standby  # noqa: PLC0415
    from runner.service.uploads import Uploads  # noqa: PLC0415

    tls = Tls(*how.tls) if how.tls else None
    home = Home(how.state)
    records = Records(home.jobs, home.logs, Uploads(home.uploads), home.artifacts)
    token = Token(home.token)
    noted = NotedLeases(source.leases, home.leases, how.slots)
    standby = Standby(noted, source.ready) if source.ready else None
    service = Service(noted, records, how.slots, standby, source.adapt(SETTINGS), how.per_key, how.labels)
    where = f"{'https' if tls else 'http'}://{how.host}:{how.port}"
    logging.getLogger("runner").info("serving on %s; the API token is in %s", where, home.token)
    working = beside(service, source.leases, home.gitlab, how.gitlab)
    app = make_app(service, token, home.tokens, working)
    await serve_api(working, app, how.host, how.port, tls, how.max_run_time)
    logging.shutdown()
    os._exit(0)  # all is on disk, and a thread that still waits for a sandbox would hold us up for minutes
