"""The only module of this package that talks to a Docker Engine."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException, ImageNotFound
from docker.utils import kwargs_from_env

from sandbox.evaluation.errors import EvaluationError

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
QUICK_SECONDS = 5
IMPORT_SECONDS = 300


def answers(url: str | None) -> bool:
    """Whether an engine answers at `url`; `None` means the environment's."""
    try:
        with _client(url) as client:
            return bool(client.ping())
    except EvaluationError:
        return False


def runtimes(url: str | None) -> set[str] | None:
    """Return the runtimes that an engine knows; `None` when no engine answers."""
    try:
        with _client(url) as client:
            return set(client.info().get("Runtimes") or {})
    except EvaluationError:
        return None


def version(url: str | None) -> str:
    """Return the engine's version, for people."""
    with _client(url) as client:
        return str(client.version()["Version"])


def data_root(url: str | None) -> str:
    """Return the folder with the engine's containers and volumes."""
    with _client(url) as client:
        return str(client.info()["DockerRootDir"])


def running_containers(url: str | None) -> int:
    """Return how many containers run."""
    with _client(url) as client:
        return int(client.info()["ContainersRunning"])


def has_image(url: str | None, reference: str) -> bool:
    """Whether the engine has an image."""
    with _client(url) as client:
        try:
            client.images.get(reference)
        except ImageNotFound:
            return False
        return True


def pull(url: str | None, repository: str, tag: str, deadline: int) -> None:
    """Pull an image. Raises `EvaluationError` with the engine's reason. `deadline` restarts with each sign of life."""
    with _client(url, deadline) as client:
        client.images.pull(repository, tag)


def tag(url: str | None, reference: str, repository: str, new_tag: str) -> None:
    """Give an image another name."""
    with _client(url) as client:
        client.images.get(reference).tag(repository, new_tag)


def import_image(url: str | None, archive: Path, repository: str, new_tag: str, command: str) -> None:
    """Make an image of one layer from a root file system in a tar archive."""
    with _client(url, IMPORT_SECONDS) as client:
        client.api.import_image_from_file(str(archive), repository, new_tag, changes=[f'CMD ["{command}"]'])


@contextmanager
def _client(url: str | None, timeout: int = QUICK_SECONDS) -> Iterator[docker.DockerClient]:
    settings = dict[str, Any](kwargs_from_env())
    if url is not None:
        settings = {"base_url": url}
    client = None
    try:
        _knock(str(settings.get("base_url") or DEFAULT_SOCKET))
        client = docker.DockerClient(**settings, version="auto", timeout=timeout)
        yield client
    except APIError as error:
        raise EvaluationError(f"The Docker Engine refused: {error.explanation or error}") from error
    except requests.Timeout as error:
        raise EvaluationError(f"The Docker Engine gave no sign of life for {timeout} s.") from error
    except (DockerException, requests.RequestException, OSError) as error:
        where = settings.get("base_url") or DEFAULT_SOCKET
        raise EvaluationError(f"No Docker Engine answers at {where}: {error}") from error
    finally:
        if client is not None:
            client.close()


def _knock(url: str) -> None:
    """Raise `OSError` when nobody listens: docker's client would also raise, but leave its socket open."""
    if url.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as knocking:
            knocking.settimeout(QUICK_SECONDS)
            knocking.connect(url.removeprefix("unix://"))
