"""A client of the service's API, and how it finds the service."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, TypeVar

import httpx

from runner import authorities
from runner.errors import BadJobError, ClientError
from runner.places import DEFAULT_URL, URL_VARIABLE, compose_is_here

DEFAULT_TOKEN: Final = Path("/var/lib/runner/token")
"""Where a service that was started by hand keeps its token."""
ENDED: Final = frozenset({"settled", "finished"})
"""The states of a job that has its outcome."""
WAITING: Final = frozenset({"queued", "starting"})
"""The states of a job of which nothing was sent to a sandbox."""
_TIMEOUT: Final = 60.0
_PATIENCE: Final = 120.0
"""Seconds to wait for an answer, and to retry a lost service before giving up: a restart takes less."""
_PAUSE: Final = 1.0
_FIRST_PAUSE: Final = 0.02
_AWAY: Final = (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT)
"""The answers of a proxy in front of the service while the service restarts."""
_TRIES: Final = 3
"""How often to submit a job whose answer may have been lost."""
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_BEGINNING: Final = re.compile("[0-9a-f]{4,31}")
"""The beginning of a job's id, which has 32 such digits. Fewer than four are hardly meant."""
_COMPOSE_DEADLINE: Final = 30.0


_T = TypeVar("_T")


class Client:
    """The API of one service. Every method raises ClientError; BadJobError when the service refuses the input."""

    def __init__(self, url: str, token: str, verify: ssl.SSLContext | bool = True, origin: str = "") -> None:
        """`verify`: the trusted certificates; by default those of the authorities that this host knows.

        `origin`: where the token came from, to say so if the service refuses it.
        """
        headers = {"Authorization": f"Bearer {token}", "User-Agent": "runner"}
        try:
            self._http = httpx.Client(
                base_url=url, headers=headers, timeout=_TIMEOUT, verify=authorities.needed(url) and verify
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise ClientError(f"The service's address {url!r} or its token is not usable: {error}.") from error
        self._url = url
        self._origin = origin

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(self, request: Mapping[str, Any], key: str) -> dict[str, Any]:
        """Submit a job; the same key again returns the same job."""
        for _ in range(_TRIES - 1):
            try:
                return self._ask("POST", "/v1/jobs", json=request, headers={"Idempotency-Key": key})
            except _UnreachableError as error:
                if isinstance(error.__cause__, httpx.ConnectError):
                    raise
        return self._ask("POST", "/v1/jobs", json=request, headers={"Idempotency-Key": key})

    def upload(self, archive: BinaryIO) -> str:
        """Send an archive, and return its id for a job's source."""
        try:
            headers = {"Content-Type": "application/octet-stream"}
            answer = self._http.post("/v1/uploads", content=archive, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        self._check(answer)
        return str(self._document(answer, dict)["id"])

    def artifacts(self, job: str) -> dict[str, Any]:
        """Return the artifacts of a job."""
        return self._ask("GET", f"/v1/jobs/{_job(job)}/artifacts")

    def artifact_archive(self, job: str) -> Iterator[bytes]:
        """Yield the artifacts of a job, as a compressed tar archive."""
        try:
            with self._http.stream("GET", f"/v1/jobs/{_job(job)}/artifacts/archive") as answer:
                if answer.is_error:
                    answer.read()
                self._check(answer)
                yield from answer.iter_raw()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error

    def jobs(self, limit: int, state: str | None) -> list[dict[str, Any]]:
        """Return the newest jobs."""
        jobs: list[dict[str, Any]] = []
        before: str | None = None
        while len(jobs) < limit:
            wanted: dict[str, str | int | None] = {"limit": min(limit - len(jobs), 500), "state": state}
            wanted["before"] = before
            page = self._ask("GET", "/v1/jobs", params={key: value for key, value in wanted.items() if value})
            jobs += page["jobs"]
            before = page["next"]
            if before is None:
                break
        return jobs

    def whole_id(self, given: str) -> str:
        """Return the id of the one job whose id begins like `given`; return a whole id as it is, without asking."""
        if not _BEGINNING.fullmatch(given):
            return given
        found = self._ask("GET", "/v1/jobs", params={"prefix": given, "limit": 2})["jobs"]
        if len(found) != 1:
            many = "several jobs have ids that begin" if found else "there is no job whose id begins"
            raise BadJobError(f"{given}: {many} like that. `runner ls` has them.")
        return str(found[0]["id"])

    def show(self, job: str) -> dict[str, Any]:
        """Return one job."""
        return self._ask("GET", f"/v1/jobs/{_job(job)}")

    def cancel(self, job: str) -> dict[str, Any]:
        """Ask for a job's end."""
        return self._ask("POST", f"/v1/jobs/{_job(job)}/cancel")

    def status(self) -> dict[str, Any]:
        """Return the status of the service."""
        return self._ask("GET", "/v1/status")

    def drain(self) -> dict[str, Any]:
        """Start no more jobs."""
        return self._ask("POST", "/v1/drain")

    def resume(self) -> dict[str, Any]:
        """Start waiting jobs again."""
        return self._ask("POST", "/v1/resume")

    def stop(self, *, force: bool) -> dict[str, Any]:
        """End the service when no job runs any more; with `force`, end the running jobs."""
        return self._ask("POST", "/v1/stop", json={"force": force})

    def sandboxes(self) -> list[dict[str, Any]]:
        """Return the sandboxes that jobs may be given."""
        return self._json("GET", "/v1/sandboxes", list)

    def webhooks(self) -> list[dict[str, Any]]:
        """Return the webhook messages that could not be delivered."""
        return self._json("GET", "/v1/webhooks", list)

    def create_token(self, name: str, scopes: Sequence[str], days: float | None) -> dict[str, Any]:
        """Make a token."""
        return self._ask("POST", "/v1/tokens", json={"name": name, "scopes": list(scopes), "days": days})

    def tokens(self) -> list[dict[str, Any]]:
        """Return the facts about the tokens."""
        return self._json("GET", "/v1/tokens", list)

    def revoke_token(self, token_id: str) -> None:
        """Revoke a token."""
        self._request("DELETE", f"/v1/tokens/{_id(token_id, 'a token', 'runner token ls')}")

    def log(self, job: str, offset: int) -> Iterator[bytes]:
        """Yield the present content of the log."""
        yield from self._read(job, offset, follow=False)

    def follow(self, job: str, offset: int) -> Iterator[bytes]:
        """Yield the log to its end, live, even if the service restarts."""
        patience = _Patience()
        while True:
            complete, ended = False, False
            with contextlib.suppress(_UnreachableError):  # a read that times out is retried too
                for data in self._read(job, offset):
                    offset += len(data)
                    yield data
                complete = True
            with patience:
                ended = self.show(job)["state"] in ENDED
            if complete and ended:
                return
            time.sleep(_PAUSE)

    def wait_for_start(self, job: str, timeout: float) -> bool:
        """Return as soon as a job has a sandbox for the first time; False if it has none after `timeout` seconds.

        Works over restarts of the service.
        """
        patience, deadline, pause = _Patience(), time.monotonic() + timeout, _FIRST_PAUSE
        while True:
            with patience:
                view = self.show(job)
                if view["state"] not in WAITING or view["retries"]:
                    return True
            if time.monotonic() > deadline:
                return False
            time.sleep(pause)
            pause = min(_PAUSE, 2 * pause)  # so the caller waits at most twice as long as needed

    def wait_until_idle(self, timeout: float) -> dict[str, Any]:
        """Return the status as soon as no job runs, even if the service restarts. ClientError after `timeout`."""
        patience, deadline = _Patience(), time.monotonic() + timeout
        while True:
            with patience:
                status = self.status()
                if status["running"] + status["gitlab_running"] == 0:
                    return status
            if time.monotonic() > deadline:
                raise ClientError(f"Jobs still run after {timeout:g} s, and the runner goes on draining.")
            time.sleep(_PAUSE)

    def _read(self, job: str, offset: int, *, follow: bool = True) -> Iterator[bytes]:
        params = {"offset": str(offset), "follow": str(follow).lower()}
        # On the same host, compressing takes longer than sending.
        headers = {"Accept-Encoding": "identity" if self._http.base_url.host in _LOOPBACK else "gzip"}
        try:
            with self._http.stream("GET", f"/v1/jobs/{_job(job)}/log", params=params, headers=headers) as answer:
                if answer.is_error:
                    answer.read()
                self._check(answer)
                yield from answer.iter_bytes()
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error

    def _ask(self, method: str, path: str, **more: Mapping[str, Any] | None) -> dict[str, Any]:
        return self._json(method, path, dict, **more)

    def _json(self, method: str, path: str, kind: type[_T], **more: Mapping[str, Any] | None) -> _T:
        return self._document(self._request(method, path, **more), kind)

    def _document(self, answer: httpx.Response, kind: type[_T]) -> _T:
        try:
            document = answer.json()
        except ValueError:
            document = None
        if not isinstance(document, kind):
            raise ClientError(f"What answers at {self._url} is no runner.")
        return document

    def _request(
        self,
        method: str,
        path: str,
        json: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        try:
            answer = self._http.request(method, path, json=json, params=params, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        self._check(answer)
        return answer

    def _check(self, answer: httpx.Response) -> None:
        if not answer.is_error:
            return
        try:
            detail = str(answer.json()["detail"])
        except (ValueError, KeyError, TypeError):
            detail = f"What answers is no runner: HTTP {answer.status_code}."
            if answer.status_code in _AWAY:
                raise _UnreachableError(detail) from None
        if answer.status_code == httpx.codes.UNAUTHORIZED and self._origin:
            detail += f" The token came from {self._origin}."
        raise (BadJobError if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY else ClientError)(detail)

    def _unreachable(self, error: Exception) -> ClientError:
        return _UnreachableError(f"No runner answers at {self._url}: {error}. Start it, or set RUNNER_URL.")


class _UnreachableError(ClientError):
    """The service cannot be reached now: asking again may help."""


class _Patience:
    """Leaves its block quietly when the service does not answer, until it has not answered for too long."""

    def __init__(self) -> None:
        self._lost: float | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, _UnreachableError):
            self._lost = None
            return False
        self._lost = self._lost or time.monotonic()
        return time.monotonic() - self._lost <= _PATIENCE


class Found(NamedTuple):
    """A service, and a token for it."""

    url: str
    token: str
    origin: str
    """Where the token came from."""


def find(environment: Mapping[str, str], ask_compose: Callable[..., str]) -> Found:
    """Return the service's address and a token for it.

    Looks at RUNNER_URL and RUNNER_TOKEN or RUNNER_TOKEN_FILE; then at the service that `docker compose up` started in
    this folder, if we may use Docker; then at a service that was started by hand on this host. Errors: ClientError when
    there is no token, or the given one is not valid.
    """
    url, token, origin = environment.get(URL_VARIABLE), environment.get("RUNNER_TOKEN"), "RUNNER_TOKEN"
    if not token and (path := environment.get("RUNNER_TOKEN_FILE")):
        token, origin = _read_token(Path(path)), path
    if not token and _readable(DEFAULT_TOKEN):
        token, origin = _read_token(DEFAULT_TOKEN), str(DEFAULT_TOKEN)
    if not token and compose_is_here():
        token, origin = ask_compose("exec", "-T", "runner", "cat", str(DEFAULT_TOKEN)), "the runner of docker compose"
        url = url or f"http://{ask_compose('port', 'runner', '8080')}"
    if not token:
        raise ClientError(
            "There is no token for the API here. Set RUNNER_TOKEN_FILE, or work in the folder of the compose.yaml."
        )
    return Found(url or DEFAULT_URL, _one_word(token.strip(), origin), origin)


def ask_compose(*words: str) -> str:
    """Return the answer of `docker compose` for the project in this folder. Errors: ClientError."""
    program = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
    try:
        answer = subprocess.run(
            [*program, *words], capture_output=True, text=True, timeout=_COMPOSE_DEADLINE, check=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClientError(f"Docker compose cannot be asked for the runner: {error}.") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise ClientError(
            f"Docker compose knows no runner here ({said[0]}). Run `docker compose up -d`, or set RUNNER_TOKEN_FILE."
        ) from error
    return answer.stdout.strip()


def connect() -> Client:
    """Return a client of the service that is found from here. Errors: ClientError."""
    found = find(os.environ, ask_compose)
    return Client(found.url, found.token, origin=found.origin)


def _readable(path: Path) -> bool:
    return os.access(path, os.R_OK)


def _read_token(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError) as error:
        raise ClientError(f"The token file {path} cannot be read: {error}.") from error


def _one_word(token: str, origin: str) -> str:
    """Return a token that can be sent. Other input is never shown: it may hold a token. Errors: ClientError."""
    if not token:
        wrong = "there is nothing"
    elif len(token.splitlines()) > 1:
        wrong = "it has more than one line"
    elif not all("!" <= sign <= "~" for sign in token):
        wrong = "it has blanks, or signs that are not ASCII"
    else:
        return token
    raise ClientError(f"The token in {origin} is no token: {wrong}. `runner token create` prints one.")


def _job(given: str) -> str:
    """Return a job's id if it can stand in an address."""
    return _id(given, "a job", "runner ls")


def _id(given: str, whose: str, command: str) -> str:
    if not given.isalnum() or not given.isascii():
        raise BadJobError(f"{given[:80]!r} is no id of {whose}. `{command}` has them.")
    return given
