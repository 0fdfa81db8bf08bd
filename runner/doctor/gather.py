"""Gathers the facts of a runner. Each has a deadline, so that one that hangs does not stop the others."""

from __future__ import annotations

import ctypes
import json
import os
import queue
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import httpx

from runner.client import Client
from runner.config.model import Config
from runner.doctor import canary as job
from runner.doctor.facts import Answer, Canary, Clock, Facts
from runner.errors import ConfigError, InputError, RunnerError
from runner.keeper_leases import KeeperState, look_at
from runner.service.housekeeping import room_of
from runner.store.condition import condition_of
from sandbox.report import Found, Result, Status, Unknown
from sandbox.settings.loaded import Loaded

DEADLINE: Final = 30.0
HOST_DEADLINE: Final = 120.0
"""Seconds for each of a file system, the database, the keeper and the service; and for all of `sandbox doctor`."""
_LOOKED_AT: Final = 5.0
"""Seconds after which a sandbox that the keeper only inspects, as it does each minute, is ready again."""
_PAUSE: Final = 0.2
_ASK_FIRST: Final = Unknown("This needs a job: ask for one with --canary.")
_DOCKER: Final = "unix:///var/run/docker.sock"
_TIME_ERROR: Final = 5
_ANY: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - nothing listens here
"""The name by which this host reaches a service that listens everywhere."""
_TIMEX: Final = 1024
"""Bytes; more than the size of the kernel's `struct timex`."""

_T = TypeVar("_T")


def gather(read: Callable[[], Loaded[Config]], keeper_config: Path | None, *, canary: bool) -> Facts:
    """Gather the facts about the runner with these settings. Never raises an error of ours."""
    host = _told(lambda: _host(keeper_config), HOST_DEADLINE + DEADLINE)
    try:
        loaded = read()
    except ConfigError as error:
        why = Unknown(str(error))
        return Facts(why, why, why, _told(_clock), host, why, why, why)
    config = loaded.config
    return Facts(
        configuration=loaded,
        room=_told(lambda: room_of(config.state)),
        store=_told(lambda: condition_of(config.state / "runner.db")),
        clock=_told(_clock),
        host=host,
        keeper=None if config.sandboxes.addresses else _told(lambda: _keeper(config.sandboxes.keeper)),
        api=_told(lambda: _ask(config)),
        canary=_told(lambda: _canary(config), job.DEADLINE + DEADLINE) if canary else _ASK_FIRST,
    )


def _told(ask: Callable[[], _T], deadline: float = DEADLINE) -> _T | Unknown:
    """Return an answer, or Unknown after the deadline. A thread that hangs, say in a file system, is left behind."""
    found: queue.SimpleQueue[_T | Unknown] = queue.SimpleQueue()

    def find() -> None:
        try:
            found.put(ask())
        except RunnerError as error:
            found.put(Unknown(str(error)))
        except (OSError, ValueError, LookupError) as error:
            found.put(Unknown(f"It could not be found out: {error}."))

    threading.Thread(target=find, daemon=True).start()
    try:
        return found.get(timeout=deadline)
    except queue.Empty:
        return Unknown(f"It could not be found out within {deadline:.0f} s.")


def _keeper(socket: Path) -> KeeperState:
    """Return the keeper's state. If no sandbox is ready, ask again for a moment: it may only be inspecting one."""
    end = time.monotonic() + _LOOKED_AT
    while True:
        state = look_at(socket)
        if any(state.ready.values()) or not state.made or time.monotonic() > end:
            return state
        time.sleep(_PAUSE)


def _clock() -> Clock:
    """Ask the kernel with adjtimex(2), which changes nothing here."""
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX))
    if state < 0:
        raise OSError(ctypes.get_errno(), "the kernel does not tell about its clock")
    return Clock(time.time(), synchronised=state != _TIME_ERROR)


def url_of(config: Config) -> str:
    """Return the address by which this host reaches the service with these settings."""
    host = _ANY.get(config.api.host, config.api.host)
    return f"{'https' if config.tls.certificate else 'http'}://{host}:{config.api.port}"


def _trusted(config: Config) -> ssl.SSLContext | bool:
    """Return the trusted certificates: the service's own one, whatever name it is for."""
    if config.tls.certificate is None:
        return True
    context = ssl.create_default_context(cafile=config.tls.certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    return context


def _ask(config: Config) -> Answer:
    url = url_of(config)
    try:
        answer = httpx.get(f"{url}/ready", timeout=DEADLINE / 2, verify=_trusted(config), trust_env=False)
    except httpx.HTTPError as error:
        raise InputError(f"No service answers at {url}: {error}.") from error
    if answer.is_success:
        return Answer(ready=True, detail="")
    try:
        return Answer(ready=False, detail=str(answer.json()["detail"])[:500])
    except (ValueError, LookupError, TypeError):
        raise InputError(f"What answers at {url} is no runner: HTTP {answer.status_code}.") from None


def _canary(config: Config) -> Canary:
    token = config.api.token.get_secret_value() if config.api.token else (config.state / "token").read_text().strip()
    service = Client(url_of(config), token, _trusted(config))
    try:
        return job.try_one(service)
    finally:
        service.close()


def _host(keeper_config: Path | None) -> tuple[Found, ...]:
    """Return the results of `sandbox doctor`, run as a process of its own: this one must not hold the Docker socket."""
    socket = Path(os.environ.get("DOCKER_HOST", _DOCKER).removeprefix("unix://"))
    if not os.access(socket, os.R_OK | os.W_OK):
        raise InputError(f"There is no Docker socket for us at {socket}.")
    options = ["--config", str(keeper_config)] if keeper_config else []
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "sandbox.entry", "doctor", "--json", *options],
            capture_output=True,
            timeout=HOST_DEADLINE,
            check=False,
        )
        checks = json.loads(ran.stdout)["checks"]
    except subprocess.TimeoutExpired:
        raise InputError(f"`sandbox doctor` did not end within {HOST_DEADLINE:.0f} s.") from None
    except (ValueError, LookupError, TypeError):
        raise InputError(f"`sandbox doctor` failed: {ran.stderr.decode(errors='replace').strip()[-500:]}") from None
    return tuple(
        Found(one["check"], Result(Status(one["status"]), one["seen"], one["fix"]), one["page"]) for one in checks
    )
