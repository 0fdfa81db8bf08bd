"""Puts the service together from its configuration.

This imports all parts of the service, including the web framework, so `runner.commands.serve` imports it late.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from runner.api import server
from runner.api.app import make_app
from runner.api.token import Token
from runner.config.model import Config
from runner.config.model import Webhooks as WebhookSettings
from runner.errors import ConfigError
from runner.execution.options import Settings
from runner.gitlab.containers.policy import ImagePolicy
from runner.gitlab.options import Options as GitLabOptions
from runner.gitlab.store import CacheStore
from runner.gitlab.with_service import with_service
from runner.lease_sources import Source
from runner.logs import Action, Events
from runner.metrics import Metrics
from runner.service.home import Home
from runner.service.housekeeping import Housekeeper
from runner.service.leases import NotedLeases
from runner.service.limits import Limits
from runner.service.records import Records
from runner.service.retention import Retention
from runner.service.service import SETTINGS, Service
from runner.service.signing import key_of
from runner.service.standby import Standby
from runner.service.uploads import Uploads
from runner.service.watermark import Marks
from runner.service.webhooks import Webhooks
from runner.store.deliveries import Deliveries
from sandbox.settings.loaded import Loaded, later

_events = Events("runner")


async def serve(loaded: Loaded[Config], read: Callable[[], Loaded[Config]], source: Source) -> None:
    """Serve until somebody stops it, and end this process. `read` reads the settings anew."""
    config = loaded.config
    gitlab = gitlab_options(config)
    tls = server.Tls(config.tls.certificate, config.tls.key) if config.tls.certificate and config.tls.key else None
    home, jobs = Home(config.state, config.webhooks.receivers), config.jobs
    metrics = Metrics()
    home.on_failure(metrics.store_errors.inc)
    records = Records(home.jobs, home.logs, Uploads(home.uploads), home.artifacts, metrics)
    token = Token(home.token, config.api.token)
    noted = NotedLeases(source.leases, home.leases)
    standby = Standby(noted, source.ready) if source.ready else None
    service = Service(
        noted,
        records,
        _limits(config),
        standby,
        replace(source.adapt(SETTINGS), files=config.files.limits()),
        Housekeeper(records, *_kept(config)),
        _webhooks(config.webhooks, home.deliveries, metrics.webhook_tried),
    )
    working = with_service(service, noted, home.gitlab, gitlab)
    api = config.api
    app = make_app(
        service,
        token,
        home.tokens,
        home.deliveries,
        working,
        source.metrics,
        source.sandboxes,
        rate=api.request_rate,
        burst=api.request_burst,
    )
    where = f"{'https' if tls else 'http'}://{api.listen}"
    serving = partial(_events.info, Action.SERVING, f"serving on {where}; the API token is in {home.token}")
    reread = partial(_reread, service, gitlab.caches, loaded, read)
    await server.serve(working, app, api.host, api.port, tls, jobs.max_run_time, reread, serving)
    os._exit(0)  # all is on disk, and a thread that still waits for a sandbox would hold us up for minutes


def gitlab_options(config: Config) -> GitLabOptions:
    """Return the options for GitLab's jobs, and open their caches for this process alone. Errors: CacheError."""
    settings, (_, marks) = config.gitlab, _kept(config)
    return GitLabOptions(
        socket=settings.socket,
        profile=settings.profile,
        settings=Settings(grace=settings.grace),
        images=ImagePolicy.parse(settings.images, settings.map_images, settings.pull_policies),
        caches=CacheStore(settings.cache, int(settings.cache_bytes), marks) if settings.cache else None,
        helper=settings.helper,
        service_wait=settings.service_wait,
        log_limit=int(settings.log_bytes),
    )


def _webhooks(settings: WebhookSettings, deliveries: Deliveries, tried: Callable[[bool], None]) -> Webhooks | None:
    if not settings.urls or settings.secret is None:
        return None
    key, receivers = key_of(settings.secret.get_secret_value()), settings.receivers
    return Webhooks(deliveries, receivers, key, timeout=settings.timeout, give_up=settings.give_up, tried=tried)


def _limits(config: Config) -> Limits:
    return Limits(config.jobs.slots, config.jobs.per_key, frozenset(config.jobs.labels))


def _kept(config: Config) -> tuple[Retention, Marks]:
    kept, disk = config.retention, config.disk
    return Retention(kept.age, int(kept.bytes), kept.jobs), Marks(low=int(disk.low), full=int(disk.full))


def _reread(
    service: Service, caches: CacheStore | None, started: Loaded[Config], read: Callable[[], Loaded[Config]]
) -> None:
    """Apply the live settings. If there is any mistake, apply none, and let the service go on as it was."""
    try:
        said = read()
    except ConfigError as error:
        _events.error(Action.CONFIGURATION_REFUSED, f"the configuration was left as it was: {error}")
        return
    service.follow(_limits(said.config))
    retention, marks = _kept(said.config)
    service.housekeeper.follow(retention, marks)
    if caches:
        caches.follow(marks)
    _events.info(Action.CONFIGURATION_READ, "the configuration was read anew")
    if waiting := later(started, said):
        _events.warning(Action.CONFIGURATION_REMARK, f"not taken up before the next start: {', '.join(waiting)}")
