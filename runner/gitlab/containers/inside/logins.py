"""Puts the job's logins to registries where the programs of its container look for them.

No file of the image is replaced: an image may have its own Docker configuration, and name its place in DOCKER_CONFIG,
as kaniko's does. If the image has none, a link leads to the job's configuration. So a script's changes to
`~/.docker/config.json` count from then on, and no secret is in a layer of the container.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from typing import Any

from runner.gitlab.containers.inside import engine


def link(name: str, folder: str) -> None:
    """Link `folder`, which the container has at the same path, as its Docker configuration.

    If that is impossible, print so, and go on without.
    """
    try:
        config = engine.call("GET", engine.container(name, "/json"))["Config"]
        place = posixpath.normpath(_place(name, config))
        links = ((place, folder), (f"{place}/config.json", f"{folder}/config.json")) if place != folder else ()
        for path, target in links:
            if not engine.has_path(name, path):
                _link(name, path, target)
                return
    except engine.Failed as error:
        print(f"WARNING: The job's logins to registries cannot be brought into its container: {error}.", flush=True)


def _place(name: str, config: dict[str, Any]) -> str:
    """Return the folder that Docker's own programs use; a missing HOME is what runc sets it to."""
    said = dict(line.partition("=")[::2] for line in config["Env"] or [])
    if said.get("DOCKER_CONFIG"):
        return str(said["DOCKER_CONFIG"])
    return f"{said.get('HOME') or _home(name, config['User'].partition(':')[0] or '0')}/.docker"


def _home(name: str, user: str) -> str:
    return next((account.home for account in engine.accounts(name) if user in (account.name, account.id)), "")


def _link(name: str, path: str, target: str) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        archive.addfile(entry)
    engine.call("PUT", engine.container(name, "/archive"), content.getvalue(), path="/")
