"""`runner serve`: the service, for as long as it is wanted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runner.commands.options import source_of
from runner.config.load import load
from runner.config.options import given_settings, takes_settings
from runner.errors import ConfigError
from runner.execution.options import Settings
from runner.logs import Action, Events, configure
from sandbox.settings.loaded import later

if TYPE_CHECKING:
    from runner.config.model import Config, GitLab
    from runner.config.model import Webhooks as WebhookSettings
    from runner.gitlab.options import Options as GitLabOptions
    from runner.service.retention import Retention
    from runner.service.service import Service
    from runner.service.watermark import Marks
    from runner.service.webhooks import Webhooks
    from runner.store.deliveries import Deliveries
    from sandbox.settings.loaded import Loaded

app = typer.Typer()
_events = Events("runner")


@app.command()
@takes_settings()
def serve(
    configuration: Annotated[
        Path | None,
        typer.Option("--config", help="Configuration file (TOML). Default: /etc/runner/runner.toml, if it is there."),
    ] = None,
    **given: Any,  # noqa: ANN401 - the options of all settings
) -> None:
    """Run as a service: take jobs over HTTP, run each in a sandbox, keep logs and outcomes.

    Settings come from the file, above it the environment, above that options: docs/configuration.md has all of them.

    TERM stops: no more jobs are taken, those that run end first, and those that wait are there for the next life on the
    same --state. A second TERM, or QUIT, ends what runs. So does `runner stop`, with and without --force.

    USR1 detaches, for a restart or an upgrade: the service exits within seconds and leaves running jobs running and
    waiting ones waiting. Started again with the same --state, it goes on with them. So it does after a crash.

    HUP reads the settings anew and takes up those that are live. A file with a mistake changes nothing.
    """
    read = partial(load, configuration, options=given_settings(given))
    loaded = read()
    configure(loaded.config.log.format)
    asyncio.run(_serve(loaded, read))


def _gitlab(settings: GitLab) -> GitLabOptions:
    from runner.gitlab.containers.policy import ImagePolicy  # noqa: PLC0415 - `runner run` does not pay for it
    from runner.gitlab.options import Options  # noqa: PLC0415
    from runner.gitlab.store import CacheStore  # noqa: PLC0415

    return Options(
        socket=settings.socket,
        settings=Settings(grace=settings.grace),
        images=ImagePolicy.parse(settings.images, settings.map_images, settings.pull_policies),
        caches=CacheStore(settings.cache, int(settings.cache_bytes)) if settings.cache else None,
        helper=settings.helper,
    )


def _webhooks(settings: WebhookSettings, deliveries: Deliveries) -> Webhooks | None:
    from runner.service.signing import key_of  # noqa: PLC0415 - as above
    from runner.service.webhooks import Webhooks  # noqa: PLC0415

    if not settings.urls or settings.secret is None:
        return None
    key = key_of(settings.secret.get_secret_value())
    return Webhooks(deliveries, settings.urls, key, timeout=settings.timeout, give_up=settings.give_up)


def _limits(config: Config) -> tuple[Retention, Marks]:
    from runner.service.retention import Retention  # noqa: PLC0415 - as above
    from runner.service.watermark import Marks  # noqa: PLC0415

    kept, disk = config.retention, config.disk
    return Retention(kept.age, int(kept.bytes), kept.jobs), Marks(low=int(disk.low), full=int(disk.full))


async def _serve(loaded: Loaded[Config], read: Callable[[], Loaded[Config]]) -> None:
    from runner.api.app import make_app  # noqa: PLC0415 - `runner run` does not pay for the web framework
    from runner.api.server import Tls  # noqa: PLC0415
    from runner.api.server import serve as serve_api  # noqa: PLC0415
    from runner.api.token import Token  # noqa: PLC0415
    from runner.gitlab.beside import beside  # noqa: PLC0415
    from runner.metrics import Metrics  # noqa: PLC0415
    from runner.service.home import Home  # noqa: PLC0415
    from runner.service.housekeeping import Housekeeper  # noqa: PLC0415
    from runner.service.leases import NotedLeases  # noqa: PLC0415
    from runner.service.records import Records  # noqa: PLC0415
    from runner.service.service import SETTINGS, Service  # noqa: PLC0415
    from runner.service.standby import Standby  # noqa: PLC0415

    config = loaded.config
    for remark in loaded.remarks:
        _events.warning(Action.CONFIGURATION_REMARK, remark)
    source = source_of(config.sandboxes)
    gitlab = _gitlab(config.gitlab)
    tls = Tls(config.tls.certificate, config.tls.key) if config.tls.certificate and config.tls.key else None
    home, jobs = Home(config.state, config.webhooks.urls), config.jobs
    metrics = Metrics()
    home.on_failure(metrics.store_errors.inc)
    records, token = Records(home.jobs, home.logs, metrics), Token(home.token, config.api.token)
    noted = NotedLeases(source.leases, home.leases, jobs.slots)
    standby = Standby(noted, source.ready) if source.ready else None
    service = Service(
        noted,
        records,
        jobs.slots,
        standby,
        source.adapt(SETTINGS),
        jobs.per_key,
        jobs.labels,
        Housekeeper(records, *_limits(config)),
        _webhooks(config.webhooks, home.deliveries),
    )
    where = f"{'https' if tls else 'http'}://{config.api.listen}"
    _events.info(Action.SERVING, f"serving on {where}; the API token is in {home.token}")
    working = beside(service, source.leases, home.gitlab, gitlab)
    api = config.api
    app = make_app(service, token, home.tokens, working, source.metrics, rate=api.request_rate, burst=api.request_burst)
    reread = partial(_reread, service, loaded, read)
    await serve_api(working, app, api.host, api.port, tls, jobs.max_run_time, reread)
    os._exit(0)  # all is on disk, and a thread that still waits for a sandbox would hold us up for minutes


def _reread(service: Service, started: Loaded[Config], read: Callable[[], Loaded[Config]]) -> None:
    """Take up what is live. Whatever is wrong, nothing of it is taken up, and the service goes on as it was."""
    try:
        said = read()
    except ConfigError as error:
        _events.error(Action.CONFIGURATION_REFUSED, f"the configuration was left as it was: {error}")
        return
    jobs = said.config.jobs
    service.follow(jobs.slots, jobs.per_key, jobs.labels)
    service.housekeeper.follow(*_limits(said.config))
    _events.info(Action.CONFIGURATION_READ, "the configuration was read anew")
    if waiting := later(started, said):
        _events.warning(Action.CONFIGURATION_REMARK, f"not taken up before the next start: {', '.join(waiting)}")
